-- Sagas that have ended leave the table that claims and fences read on every step. Their events stay in
-- the log. The new table inherits from saga_work, so a query on saga_work still shows every saga, also to
-- a replica of the release before; a query on `only saga_work` shows the queue.
create table saga_ended (
  primary key (saga_id),
  unique (subject_id, definition)
) inherits (saga_work);

-- Always empty. Without it a query by due time would read the whole table.
create index saga_ended_due on saga_ended (due_at) where due_at is not null;
create index saga_ended_live on saga_ended (state, created_at)
  where state in ('running', 'compensating', 'stuck');

-- Moves a saga in the transaction that ends it, whichever release runs it. The service's role may not
-- delete from saga_work, so this function acts as the owner of the tables.
create function keep_ended_saga() returns trigger language plpgsql
security definer set search_path from current set enable_seqscan = off as $$
begin
  delete from only saga_work where saga_id = new.saga_id;
  insert into saga_ended values (new.*);
  return null;
end $$;

create trigger saga_work_ended after update of state on saga_work
  for each row when (new.state in ('completed', 'compensated'))
  execute function keep_ended_saga();

-- Rows are updated at every step and deleted at the end. There is room for updates within the page, and
-- vacuum goes by the number of dead rows, not by their share.
alter table saga_work set (
  fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Takes sagas that are due and that nobody holds, the longest due first. `due_from` and `look_back_ms`
-- say where to start: at the earlier of the two, or at the first entry where both are null. Entries of
-- steps that are over stay in the index for as long as an old snapshot is open; a claim need not read them
-- all. The planner may only walk the index by due time: the table is empty one minute and full the next.
create function claim_sagas(
  claimant uuid, lease_ms integer, names text[], versions integer[], sagas_max integer,
  due_from timestamptz, look_back_ms integer
)
returns table (
  saga_id uuid, subject_id uuid, definition text, definition_version integer, epoch bigint,
  failures integer, was_due_at timestamptz
) language sql
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off as $$
  update only saga_work as work
  set owner = claimant, epoch = work.epoch + 1, updated_at = clock_timestamp(),
      lease_until = clock_timestamp() + lease_ms * interval '1 ms',
      due_at = clock_timestamp() + lease_ms * interval '1 ms'
  from (
    select w.saga_id, w.due_at from only saga_work w
    where w.due_at <= statement_timestamp()
      and w.due_at >= coalesce(
        least(due_from, statement_timestamp() - look_back_ms * interval '1 ms'), '-infinity')
      and (w.lease_until is null or w.lease_until <= clock_timestamp())
      and (w.definition, w.definition_version) in (select * from unnest(names, versions))
    order by w.due_at limit sagas_max for update skip locked
  ) as due
  where work.saga_id = due.saga_id
  returning work.saga_id, work.subject_id, work.definition, work.definition_version, work.epoch,
    work.failures, due.due_at
$$;
