-- The same bodies for wrk (in Debian), as fast as answers come: wrk keeps no rate.
-- KEY=... wrk -t2 -c64 -d30s --latency -s loadtest/comparisons/rides.lua http://127.0.0.1:8080/v1/rides
local threads = 0
function setup(thread)
  thread:set("thread", threads)
  threads = threads + 1
end

local headers = {
  ["Content-Type"] = "application/json",
  ["Authorization"] = "Bearer " .. (os.getenv("KEY") or ""),
}
local next_id

function request()
  if not next_id then
    next_id = os.time() * 1000000 + thread * 100000000000
  end
  next_id = next_id + 1
  local body = string.format('{"id":%.0f,"user_id":22177,"vehicle_model_id":12,"travel_type_id":2,"from_area_id":1096,'
    .. '"to_area_id":393,"from_date":"2026-01-01T09:30:00+05:30","booking_created":"2026-01-01T07:51:00+05:30",'
    .. '"from_lat":12.96519,"from_long":77.71932}', next_id)
  return wrk.format("POST", nil, headers, body)
end
