-- Couriers: a second kind of resource, changed by commands, and the events that say so.

create table couriers (
    partner_id         int4 not null,
    -- Compared byte by byte: the order of pages must not depend on a locale.
    courier_id         text collate "C" not null,
    name               text not null,
    max_capacity       int4 not null,
    available_capacity int4 not null,
    vehicle_type       text collate "C",
    phone              text,
    -- The text itself, so that a patch finds every number as it was sent; jsonb has a spelling of
    -- its own.
    attributes         json,
    tracking_id        uuid not null,
    created_by         uuid not null,
    created_hash       int8 not null,
    version            int4 not null,
    created_at         timestamptz not null,
    updated_at         timestamptz not null,
    deleted_at         timestamptz,
    -- Finds a courier for its partner, and is what a create conflicts with.
    primary key (partner_id, courier_id),
    constraint couriers_capacity check (0 <= available_capacity and available_capacity <= max_capacity)
)
-- A few thousand rows take thousands of changes a second: vacuum by number, not by share.
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
      autovacuum_vacuum_cost_delay = 0);
comment on table couriers is 'The couriers as they are now: one row per partner and courier id, deleted ones included.';
comment on column couriers.courier_id is 'As sent; an integer as its decimal digits.';
comment on column couriers.max_capacity is 'Litres.';
comment on column couriers.available_capacity is 'Litres that still fit; what is in use is max_capacity minus this.';
comment on column couriers.attributes is 'A JSON object of the partner''s own.';
comment on column couriers.tracking_id is 'Of the command that made the courier what it is.';
comment on column couriers.created_by is 'Tracking id of the create command.';
comment on column couriers.created_hash is 'Of the create command''s content; what another create is compared with. The top four bits are the hash version.';
comment on column couriers.version is '1 when created, one more with every change, deletion included.';
comment on column couriers.created_at is 'When the create command was accepted.';
comment on column couriers.updated_at is 'When the command that made the latest change was accepted.';
comment on column couriers.deleted_at is 'When the delete command was accepted; null while the courier exists. An id is not used again.';

-- Who can carry so much, the tightest fit first, in keyset pages; and the same for one type.
create index couriers_available on couriers (partner_id, available_capacity, courier_id)
    where deleted_at is null;
create index couriers_available_by_type on couriers (partner_id, vehicle_type, available_capacity, courier_id)
    where deleted_at is null;

create table courier_movements (
    partner_id  int4 not null,
    courier_id  text collate "C" not null,
    direction   int2 not null,
    reference   text collate "C" not null,
    capacity    int4 not null,
    tracking_id uuid not null,
    -- What makes a repeated reference a duplicate instead of a second deduction.
    primary key (partner_id, courier_id, direction, reference)
);
comment on table courier_movements is
    'The pickups and dropoffs that took effect, by the sender''s reference. Kept as long as the ledger: after dropping days of it, delete where tracking_id < weir_tracking_id_at(the first day kept).';
comment on column courier_movements.direction is '1 pickup, 2 dropoff.';
comment on column courier_movements.capacity is 'Litres.';
comment on column courier_movements.tracking_id is 'Of the command.';

-- Written in the transaction that made the change, removed once the log of events has it.
create table outbox (
    partition   int4 not null,
    log_seq     int8 not null,
    event_index int4 not null,
    partner_id  int4 not null,
    event       text not null,
    event_id    text not null,
    body        text not null,
    primary key (partition, log_seq, event_index)
)
-- Its rows live for milliseconds, and what is looked at is always its oldest end.
with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
      autovacuum_vacuum_cost_delay = 0);
comment on table outbox is 'Events that are committed and not yet on the log of events, in the order in which they go there.';
comment on column outbox.log_seq is 'Stream sequence of the chunk whose record caused the event.';
comment on column outbox.event_index is 'Position among the chunk''s events, from 0.';
comment on column outbox.event is 'Its name, the last token of its subject.';
comment on column outbox.event_id is 'The CloudEvents id: the same in every delivery.';
comment on column outbox.body is 'The CloudEvents document.';

comment on column requests.kind is '1 ride, 2 courier.';
comment on column requests.action is '1 created, 2 replaced, 3 updated, 4 deleted; null unless persisted.';
comment on column requests.code is 'Why it failed, in a word (docs/operations.md lists them); null otherwise.';

create or replace view requests_readable as
    select tracking_id,
           partner_id,
           case kind when 1 then 'ride' when 2 then 'courier' else kind::text end as kind,
           case outcome when 1 then 'persisted' when 2 then 'duplicate' when 3 then 'failed'
                        else outcome::text end as outcome,
           case action when 1 then 'created' when 2 then 'replaced' when 3 then 'updated'
                       when 4 then 'deleted' else action::text end as action,
           resource_id,
           code,
           detail,
           duplicate_of,
           weir_accepted_at(tracking_id) as accepted_at,
           completed_at,
           log_seq,
           log_index
      from requests;

create view couriers_readable as
    select partner_id,
           courier_id,
           name,
           max_capacity,
           available_capacity,
           max_capacity - available_capacity as capacity_in_use,
           vehicle_type,
           phone,
           attributes,
           version,
           created_at,
           updated_at,
           deleted_at,
           created_by,
           tracking_id
      from couriers;
comment on view couriers_readable is 'The couriers for people.';

grant select on couriers, couriers_readable to weir_reader;
