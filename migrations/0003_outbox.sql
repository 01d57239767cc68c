-- Messages that Kafka has not acknowledged yet. Rows are inserted with their event and deleted on
-- acknowledgement, never updated. Every part of the message is a column of its own, so that an outside
-- relay (Debezium's outbox event router, say) can build the same message from the same row.
create table outbox_events (
  id bigint generated always as identity primary key,
  aggregate_type text not null,
  aggregate_id uuid not null,
  event_type text not null,
  stream_version integer not null,
  topic text not null,
  message_key text not null,
  key_hash integer not null, -- murmur2 of the key, as Kafka's Java client computes it
  ce_specversion text not null default '1.0',
  ce_id text not null,
  ce_type text not null,
  ce_source text not null,
  ce_time text not null,
  ce_subject text not null,
  ce_sequence text not null,
  content_type text not null default 'application/json',
  traceparent text,
  payload text not null,
  created_at timestamptz not null default clock_timestamp()
);

grant select, insert, delete on outbox_events to orders_app;
