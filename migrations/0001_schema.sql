-- Weir's tables. Forward-only: what has been released is never edited, only followed by the next
-- number. Day partitions of the ledger are made by the workers, not here.

-- When a tracking id was minted, by its first 48 bits (UUIDv7: Unix milliseconds). PostgreSQL 18
-- has uuid_extract_timestamp for this; written out, it works on every supported release.
create function weir_accepted_at(tracking_id uuid) returns timestamptz
    language sql immutable strict parallel safe
    return timestamptz 'epoch'
        + ('x' || left(replace(tracking_id::text, '-', ''), 12))::bit(48)::int8
        * interval '1 millisecond';
comment on function weir_accepted_at(uuid) is
    'The instant at which the record with this tracking id was accepted, to the millisecond.';

-- The other way round, for people: `where tracking_id >= weir_tracking_id_at(now() - interval ''1 hour'')`
-- reads only the days it needs, which a condition on weir_accepted_at would not.
create function weir_tracking_id_at(instant timestamptz) returns uuid
    language sql immutable strict parallel safe
    return rpad(lpad(to_hex(floor(extract(epoch from instant) * 1000)::int8), 12, '0'), 32, '0')::uuid;
comment on function weir_tracking_id_at(timestamptz) is
    'The smallest uuid of this instant''s millisecond: no record accepted then or later has a smaller tracking id.';

create table installation (
    id         uuid not null,
    partitions int4 not null check (partitions between 1 and 256)
);
comment on table installation is
    'Which installation this database belongs to: one row, equal to the metadata of every stream.';
comment on column installation.partitions is 'P, the number of partitions; fixed when the streams are created.';
-- Two rows would be two installations writing one database.
create unique index installation_one_row on installation ((true));

-- The only cursor. Updated once per batch, so each page is kept half empty: an update then stays
-- on its page and touches no index.
create table progress (
    partition       int4 primary key check (partition between 0 and 255),
    incarnation     uuid not null,
    last_seq        int8 not null check (last_seq >= 0),
    last_message_id uuid,
    committed_to    timestamptz not null
) with (fillfactor = 50);
comment on table progress is
    'How far each partition is applied. Advanced by compare-and-set as the first statement of the transaction that carries the data; there is no other cursor.';
comment on column progress.incarnation is 'Of the stream that last_seq counts in; a recreated stream has another, and the partition is then held.';
comment on column progress.last_seq is 'Stream sequence of the last applied chunk; 0 before the first.';
comment on column progress.last_message_id is 'Chunk id of the message at last_seq, compared with the stream at every opening; null before the first.';
comment on column progress.committed_to is
    'The smaller of the last applied chunk''s store time by the log and its publish_by; never runs backwards. The watermark is this minus 30 s.';

create table leases (
    partition     int4 primary key check (partition between 0 and 255),
    owner         text,
    backend_pid   int4,
    backend_start timestamptz,
    beaten_at     timestamptz
) with (fillfactor = 50);
comment on table leases is
    'Who works on a partition. Only avoids wasted work: correctness rests on the compare-and-set of progress.';
comment on column leases.owner is 'Name of the worker; null when nobody holds the partition.';
comment on column leases.backend_pid is 'Process id of the backend that the owner writes with; a successor terminates it first.';
comment on column leases.backend_start is 'When that backend started: a process id alone may have been used again.';
comment on column leases.beaten_at is 'Last sign of life, by the database''s clock.';

-- The ledger. Its key is its order of time, so that COPY appends to the right edge of the index
-- (a random key costs more than half of the speed), and a day can be dropped as a table.
create table requests (
    tracking_id  uuid not null,
    partner_id   int4 not null,
    kind         int2 not null,
    outcome      int2 not null,
    action       int2,
    resource_id  text not null,
    code         text,
    detail       text,
    duplicate_of uuid,
    log_seq      int8 not null,
    log_index    int4 not null,
    content_hash int8 not null,
    completed_at timestamptz not null default now(),
    -- Finds a request by the id its sender was given, and is the guarantee that a chunk stored
    -- twice by the log is applied once.
    primary key (tracking_id)
) partition by range (tracking_id);
comment on table requests is
    'The ledger: one row per accepted record, written in the transaction that applied it and never changed. Partitioned by UTC day of acceptance (requests_YYYYMMDD).';
comment on column requests.kind is '1 ride.';
comment on column requests.outcome is '1 persisted, 2 duplicate, 3 failed.';
comment on column requests.action is '1 created, 2 replaced; null unless persisted.';
comment on column requests.code is 'Why it failed: conflict, expired or unstorable; null otherwise.';
comment on column requests.detail is 'The failure in a sentence that the partner may read.';
comment on column requests.duplicate_of is 'Tracking id of the record whose content this one repeats.';
comment on column requests.log_seq is 'Stream sequence of its chunk.';
comment on column requests.log_index is 'Position in the chunk, from 0.';
comment on column requests.content_hash is 'Of the record as sent; the top four bits are the hash version.';
comment on column requests.completed_at is 'Start of the transaction that applied it.';

-- A partner's failures, newest or oldest first, in keyset pages. Failures are rare, so a partial
-- index costs the usual row nothing.
create index requests_failed on requests (partner_id, tracking_id) where outcome = 3;

-- A clock that is off, or a day whose partition is not made yet, must not lose a row. Workers move
-- its rows where they belong.
create table requests_default partition of requests default;
comment on table requests_default is 'Ledger rows of days without a partition; empty in health.';

create table rides (
    partner_id            int4 not null,
    id                    int8 not null,
    user_id               int8 not null,
    vehicle_model_id      int4 not null,
    package_id            int4,
    travel_type_id        int4 not null,
    from_area_id          int4,
    to_area_id            int4,
    from_city_id          int4,
    to_city_id            int4,
    from_date             timestamptz not null,
    to_date               timestamptz,
    online_booking        bool not null,
    mobile_site_booking   bool not null,
    booking_created       timestamptz not null,
    from_lat              float8,
    from_long             float8,
    to_lat                float8,
    to_long               float8,
    car_cancellation      bool not null,
    extra                 jsonb,
    tracking_id           uuid not null,
    content_hash          int8 not null,
    created_by            uuid not null,
    created_hash          int8 not null,
    version               int4 not null,
    created_at            timestamptz not null,
    updated_at            timestamptz not null,
    -- Finds a ride for its partner, and is what a create conflicts with.
    primary key (partner_id, id)
);
comment on table rides is 'The rides as they are now: one row per partner and ride id.';
comment on column rides.travel_type_id is '1 long distance, 2 point to point, 3 hourly.';
comment on column rides.extra is 'Members of the input that Weir does not know, kept as they came.';
comment on column rides.tracking_id is 'Of the record that wrote the present content.';
comment on column rides.content_hash is 'Of the present content; what a PUT is compared with. The top four bits are the hash version.';
comment on column rides.created_by is 'Tracking id of the record that created the ride.';
comment on column rides.created_hash is 'Of the content it was created with; what a POST is compared with.';
comment on column rides.version is '1 when created, one more with every replacement.';
comment on column rides.created_at is 'When the creating record was accepted.';
comment on column rides.updated_at is 'When the record that wrote the present content was accepted.';

create view requests_readable as
    select tracking_id,
           partner_id,
           case kind when 1 then 'ride' else kind::text end as kind,
           case outcome when 1 then 'persisted' when 2 then 'duplicate' when 3 then 'failed'
                        else outcome::text end as outcome,
           case action when 1 then 'created' when 2 then 'replaced' else action::text end as action,
           resource_id,
           code,
           detail,
           duplicate_of,
           weir_accepted_at(tracking_id) as accepted_at,
           completed_at,
           log_seq,
           log_index
      from requests;
comment on view requests_readable is 'The ledger for people: numbers as words, and when each record was accepted.';

create view rides_readable as
    select partner_id,
           id,
           user_id,
           vehicle_model_id,
           package_id,
           case travel_type_id when 1 then 'long distance' when 2 then 'point to point'
                               when 3 then 'hourly' else travel_type_id::text end as travel_type,
           from_area_id,
           to_area_id,
           from_city_id,
           to_city_id,
           from_date,
           to_date,
           online_booking,
           mobile_site_booking,
           booking_created,
           from_lat,
           from_long,
           to_lat,
           to_long,
           car_cancellation,
           extra,
           version,
           created_at,
           updated_at,
           created_by,
           tracking_id
      from rides;
comment on view rides_readable is 'The rides for people.';

-- What the status API may do. Roles belong to the whole cluster: another database's migration may
-- have made this one before, or may be making it at this moment.
do $$
begin
    if not exists (select from pg_roles where rolname = 'weir_reader') then
        create role weir_reader nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;
end
$$;
grant usage on schema public to weir_reader;
grant select on installation, progress, requests, rides, requests_readable, rides_readable to weir_reader;
