-- An owner that is neither a superuser nor a member of pg_read_all_stats is not shown the transactions of other
-- users. Before, they counted as none. Now the age is null: it is not known.
create or replace function oldest_transaction_age_seconds() returns double precision
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select case when not bool_or(is_hidden) then
    coalesce(greatest(0, extract(epoch from clock_timestamp() - min(begun_at))), 0)::float8
  end
  from (
    select null::timestamptz as begun_at, false as is_hidden
    union all
    select xact_start, query = '<insufficient privilege>' from pg_stat_activity
    where datname = current_database() and usesysid is not null and pid <> pg_backend_pid()
      and coalesce(backend_type, 'client backend') = 'client backend'
    union all
    select prepared, false from pg_prepared_xacts where database = current_database()
  ) as transactions
$$;
