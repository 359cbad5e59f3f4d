-- Who may do what. Two roles beside the owner, who migrates: weir_worker writes, weir_reader reads
-- views. Neither can log in; an installation makes users and grants them one of the two.
--
-- Roles belong to the whole cluster: another database's migration may have made this one before,
-- or may be making it at this moment.
do $$
begin
    if not exists (select from pg_roles where rolname = 'weir_worker') then
        create role weir_worker nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;
end
$$;

-- The status API's views: what it selects, and nothing else. As plain as they are, the planner sees
-- through them: every condition reaches the table's indexes.
create view status_requests as
    select tracking_id, partner_id, kind, outcome, action, resource_id, code, detail, duplicate_of, completed_at
      from requests;
comment on view status_requests is 'What the status API reads of the ledger.';

create view status_progress as
    select partition, committed_to from progress;
comment on view status_progress is 'What the status API reads of the cursor.';

create view status_rides as
    select partner_id, id, user_id, vehicle_model_id, package_id, travel_type_id, from_area_id, to_area_id,
           from_city_id, to_city_id, from_date, to_date, online_booking, mobile_site_booking, booking_created,
           from_lat, from_long, to_lat, to_long, car_cancellation, extra, tracking_id, version, created_at,
           updated_at
      from rides;
comment on view status_rides is 'What the status API reads of rides.';

create view status_couriers as
    select partner_id, courier_id, name, max_capacity, available_capacity, vehicle_type, phone, attributes,
           tracking_id, version, created_at, updated_at, deleted_at
      from couriers;
comment on view status_couriers is 'What the status API reads of couriers.';

-- Was granted tables by earlier migrations.
revoke all on installation, progress, requests, rides, couriers from weir_reader;
grant select on status_requests, status_progress, status_rides, status_couriers to weir_reader;

-- A day's partition needs the ownership of the table it becomes part of, which a worker has not:
-- these two do this one thing for it, as the owner. What they name is in pg_catalog or spelled out,
-- so that no table or function of the caller's comes in between.

-- Whoever waits for a lock makes everybody behind it wait as well: better to come again later.
create function weir_attach_day(day date) returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '1s'
as $$
declare
    name text := 'requests_' || to_char(day, 'YYYYMMDD');
    first_id uuid := public.weir_tracking_id_at(day::timestamp at time zone 'UTC');
    next_id uuid := public.weir_tracking_id_at((day + 1)::timestamp at time zone 'UTC');
begin
    -- Workers take turns: two of them making one day would meet in an error.
    perform pg_advisory_xact_lock(x'5745495244415953'::int8);
    execute format('create table public.%I (like public.requests including all)', name);
    execute format('alter table public.requests attach partition public.%I for values from (%L) to (%L)',
                   name, first_id, next_id);
end
$$;
comment on function weir_attach_day(date) is
    'Makes the partition of a UTC day that has no row in the default partition. The ledger stays open to readers and writers; only the default partition is locked, for a moment.';

-- The parent is locked against everybody, and first. A reader that has planned with the partitions
-- as they were, and then waits at the default partition, would go on with that plan when the rows
-- are gone from there; at the parent it waits before it plans. First, because everybody else locks
-- the parent before its partitions.
create function weir_move_day(day date) returns int8
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '1s'
as $$
declare
    name text := 'requests_' || to_char(day, 'YYYYMMDD');
    first_id uuid := public.weir_tracking_id_at(day::timestamp at time zone 'UTC');
    next_id uuid := public.weir_tracking_id_at((day + 1)::timestamp at time zone 'UTC');
    moved int8;
begin
    perform pg_advisory_xact_lock(x'5745495244415953'::int8);
    lock table only public.requests in access exclusive mode;
    execute format('create table public.%I (like public.requests including all)', name);
    execute format('with moved as (delete from public.requests_default
                                    where tracking_id >= %L and tracking_id < %L returning *)
                    insert into public.%I select * from moved', first_id, next_id, name);
    get diagnostics moved = row_count;
    execute format('alter table public.requests attach partition public.%I for values from (%L) to (%L)',
                   name, first_id, next_id);
    return moved;
end
$$;
comment on function weir_move_day(date) is
    'Makes the partition of a UTC day and moves the day''s rows from the default partition into it; how many there were.';

revoke execute on function weir_attach_day(date), weir_move_day(date) from public;
grant execute on function weir_attach_day(date), weir_move_day(date) to weir_worker;

-- The worker: what its statements need, table by table. The ledger takes rows and keeps them;
-- the cursor's stream, partitions and installations are made by the owner alone.
grant usage on schema public to weir_worker;
grant select on installation to weir_worker;
grant select, update (last_seq, last_message_id, committed_to) on progress to weir_worker;
grant select, update (owner, backend_pid, backend_start, beaten_at) on leases to weir_worker;
grant select, insert, update, delete on workers to weir_worker;
grant select, insert on requests to weir_worker;
grant select on requests_default to weir_worker;
grant select, insert, update on rides, couriers to weir_worker;
grant select, insert on courier_movements to weir_worker;
grant select, insert, delete on outbox to weir_worker;
-- Everybody's on a new database, but somebody may have taken it away: batches are staged in
-- temporary tables.
do $$
begin
    execute format('grant connect, temporary on database %I to weir_worker', current_database());
    execute format('grant connect on database %I to weir_reader', current_database());
end
$$;
