-- Who is alive, so that workers without a lease count when partitions are shared out.
create table workers (
    owner     text primary key,
    beaten_at timestamptz not null
) with (fillfactor = 50);
comment on table workers is
    'The workers that share the partitions, one row per process; rows of dead ones are removed after an hour.';
comment on column workers.owner is 'As in leases.owner.';
comment on column workers.beaten_at is 'Last sign of life, by the database''s clock.';
