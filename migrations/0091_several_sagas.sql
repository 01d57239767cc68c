-- An order may have several live sagas. A cancellation wakes its fulfilment only, and waits for no other saga. The
-- release before never begins any other saga, calls the same functions, and needs no unique pair.

create or replace function lock_sagas(unit_sagas json, out fenced integer[], out held integer[])
language plpgsql as $$
begin
  with given as materialized (
    select unit, op, saga_id, subject_id, epoch from json_to_recordset(unit_sagas) as w (
      unit integer, op text, saga_id uuid, subject_id uuid, epoch bigint)
    where op in ('advance', 'wake')
  ),
  locked as materialized (
    select saga_id, subject_id, epoch from only saga_work
    where saga_id = any (array(select saga_id from given where op = 'advance'))
      or (subject_id = any (array(select subject_id from given where op = 'wake'))
        and definition = 'fulfilment')
    order by saga_id for update skip locked
  ),
  judged as (
    select g.unit, g.op = 'advance' and w.epoch is distinct from g.epoch as is_fenced,
      w.saga_id is not null
        and not exists (select from locked where locked.saga_id = w.saga_id) as is_held
    from given g left join lateral (
      select s.saga_id, coalesce(l.epoch, s.epoch) as epoch
      from only saga_work s left join locked l on l.saga_id = s.saga_id
      where g.op = 'advance' and s.saga_id = g.saga_id
      union all
      select s.saga_id, s.epoch from only saga_work s
      where g.op = 'wake' and s.subject_id = g.subject_id and s.definition = 'fulfilment'
    ) as w on true
  )
  select coalesce(array_agg(distinct unit) filter (where is_fenced), '{}'),
         coalesce(array_agg(distinct unit) filter (where is_held), '{}')
  into fenced, held from judged;
end $$;

create or replace function write_sagas(unit_sagas json, given_up integer[]) returns void
language plpgsql as $$
begin
  if unit_sagas::jsonb @@ '$[*].op == "begin"' then
    insert into saga_work (saga_id, subject_id, definition, definition_version, state, owner, epoch,
      lease_until, due_at)
    select saga_id, subject_id, definition, definition_version, 'running', owner, 1,
           clock_timestamp() + lease_ms * interval '1 ms',
           clock_timestamp() + due_in_ms * interval '1 ms'
    from json_to_recordset(unit_sagas) as w (
      unit integer, op text, saga_id uuid, subject_id uuid, definition text,
      definition_version integer, owner uuid, lease_ms integer, due_in_ms integer)
    where op = 'begin' and unit <> all (given_up);
  end if;

  if unit_sagas::jsonb @@ '$[*].op == "advance"' then
    -- Who keeps the saga keeps its due time, though the lease starts anew: no index entry changes. A claim
    -- that comes by at the due time finds the lease and leaves the saga alone.
    update only saga_work as w
    set state = g.state, step = g.step, attempt = g.attempt, reason = g.reason, failures = 0,
        epoch = w.epoch + (g.owner is null)::integer, owner = g.owner,
        lease_until = clock_timestamp() + g.lease_ms * interval '1 ms',
        due_at = case when g.owner is not null and w.due_at > clock_timestamp() then w.due_at
                      else clock_timestamp() + g.due_in_ms * interval '1 ms' end,
        deadline_at = g.deadline_at, updated_at = clock_timestamp()
    from json_to_recordset(unit_sagas) as g (
      unit integer, op text, saga_id uuid, state text, step text, attempt integer, reason text,
      owner uuid, lease_ms integer, due_in_ms integer, deadline_at timestamptz)
    where g.op = 'advance' and w.saga_id = g.saga_id and g.unit <> all (given_up);
  end if;

  if unit_sagas::jsonb @@ '$[*].op == "wake"' then
    update only saga_work as w set due_at = clock_timestamp(), state = 'compensating'
    from json_to_recordset(unit_sagas) as g (unit integer, op text, subject_id uuid)
    where g.op = 'wake' and w.subject_id = g.subject_id and w.definition = 'fulfilment'
      and g.unit <> all (given_up) and w.state in ('running', 'compensating');
  end if;
end $$;

alter table saga_work drop constraint saga_work_subject_id_definition_key;
