-- What an operator does to the stock of one sku, in one call, so that its row is locked for no longer
-- than the call takes: sets what is on hand (new_on_hand) or moves it (delta), if the caller's
-- conditions hold, and keeps the answer under the caller's key. Locks are taken in the order of
-- append_units: the stock, then the key.

-- The ETag of a row of the stock. Every change of a row moves updated_at.
create function stock_etag(level stock) returns text language sql immutable as $$
  select format('"%s-%s-%s"', level.on_hand, level.reserved,
                (extract(epoch from level.updated_at) * 1000000)::bigint)
$$;

-- Verdicts: created, changed · unmatched (a condition does not hold), missing (nothing to move),
-- reserved (more than that), too_many (above on_hand_max): nothing was written · replayed: the key
-- is known; request_hash, status, etag and body are those that it was stored with.
-- tags and not_tags are what If-Match and If-None-Match say: null where they were not sent, {*} for any.
create function change_stock(
  stock_sku text, new_on_hand bigint, delta bigint, on_hand_max bigint, tags text[], not_tags text[],
  key_principal text, key_text text, hash bytea
)
returns table (
  verdict text, sku text, on_hand bigint, reserved bigint, updated_at timestamptz, etag text,
  request_hash bytea, status smallint, body text
)
language plpgsql
set enable_seqscan = off as $$
#variable_conflict use_column
declare
  level stock;
  is_there boolean;
  wanted bigint;
  outcome text := 'changed';
  moment timestamptz := date_trunc('milliseconds', clock_timestamp());
begin
  if key_text is not null then
    return query
    select 'replayed', null::text, null::bigint, null::bigint, null::timestamptz, k.etag,
           k.request_hash, k.status, k.body
    from idempotency_keys k where k.principal = key_principal and k.key = key_text;
    if found then return; end if;
  end if;

  loop
    select * into level from stock s where s.sku = stock_sku for update;
    is_there := found;
    wanted := coalesce(new_on_hand, level.on_hand + delta);
    outcome := case
      when tags is not null and not (is_there and ('*' = any (tags) or stock_etag(level) = any (tags)))
        then 'unmatched'
      when is_there and ('*' = any (not_tags) or stock_etag(level) = any (not_tags)) then 'unmatched'
      when wanted is null then 'missing'
      when wanted > on_hand_max then 'too_many'
      when wanted < coalesce(level.reserved, 0) then 'reserved'
      when is_there then 'changed'
      else 'created' end;
    exit when outcome <> 'created';
    insert into stock as s (sku, on_hand, updated_at) values (stock_sku, wanted, moment)
    on conflict do nothing returning * into level;
    exit when found; -- else somebody was faster: look at what is there now
  end loop;

  if outcome = 'changed' then
    update stock s set on_hand = wanted,
      updated_at = greatest(moment, date_trunc('milliseconds', s.updated_at) + interval '1 ms')
    where s.sku = stock_sku returning * into level;
  end if;

  if key_text is not null and outcome in ('created', 'changed') then
    insert into idempotency_keys as k
      (principal, key, command_id, request_hash, status, etag, location, body)
    values (key_principal, key_text, gen_random_uuid(), hash,
      case outcome when 'created' then 201 else 200 end, stock_etag(level), null,
      json_build_object('sku', level.sku, 'onHand', level.on_hand, 'reserved', level.reserved,
        'updatedAt', to_char(level.updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))
    on conflict do nothing;
    -- Another request with the key was faster. Rolled back, this one is told its answer when repeated.
    if not found then raise exception 'the key was taken meanwhile' using errcode = '40001'; end if;
  end if;

  return query select outcome, level.sku, level.on_hand, level.reserved, level.updated_at,
    case when level.sku is not null then stock_etag(level) end, null::bytea, null::smallint,
    null::text;
end $$;
