-- no transaction
-- Both are for outbox_waiting, in the next file. The rows of a key, by version:
drop index concurrently if exists outbox_events_key;
create index concurrently outbox_events_key on outbox_events (key_hash, stream_version);
-- The rows of a lane, by id. In one number, so that no other index can be taken for it.
drop index concurrently if exists outbox_events_lane;
create index concurrently outbox_events_lane on outbox_events (
  (((key_hash & 2147483647) % 960)::bigint << 52 | id)
);
