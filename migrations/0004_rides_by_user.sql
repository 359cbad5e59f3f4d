-- no-transaction
-- A user's rides by the time of the journey, in keyset pages. Built beside the writers: an ordinary
-- build keeps them out of `rides` for as long as it takes. One that broke off leaves an index that
-- is not valid; `persist-worker migrate` drops it first.
create index concurrently if not exists rides_by_user on rides (partner_id, user_id, from_date, id);
