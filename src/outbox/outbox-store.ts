import type { Pool } from 'pg';
import type { OutboxRow } from './outbox.ts';

/** With this many parked keys the topic is at fault, not the messages, and no more are parked. */
const PARKED_KEYS_MAX = 1_000;

/** Which rows to read. */
export type Window = Readonly<{
  /** Keys are found from this id on. The rows of a found key are read even if their ids are lower. */
  fromId: number;
  partitions: number;
  /** Partitions that cannot take messages now. */
  excluded: readonly number[];
  rowsMax: number;
  bytesMax: number;
}>;

/** Identifies a message: another one may have the same id, or the same id and version. */
export type SentRow = Pick<OutboxRow, 'id' | 'ce_id' | 'ce_time'>;

/** A message that Kafka refuses, and the epoch of the leader that sent it. */
export type Refusal = Readonly<{
  outboxId: number;
  messageId: string;
  reason: string;
  epoch: number;
}>;

/** The name of the lease by which the relays of a topic agree who leads. */
export function relayLease(topic: string): string {
  return `relay ${topic}`;
}

export type OutboxStore = ReturnType<typeof createOutboxStore>;

/** The relay's SQL statements for the outbox of one topic. */
export function createOutboxStore(pool: Pool, topic: string) {
  return {
    /**
     * The messages to publish next: for each key its first waiting ones, by version. It never reads
     * on from the last id seen, because a transaction may commit a lower id after a higher one.
     */
    waiting: async (window: Window): Promise<OutboxRow[]> => {
      const { fromId, partitions, excluded, rowsMax, bytesMax } = window;
      const { rows } = await pool.query<OutboxRow>(
        `select id, message_key, key_hash, ce_specversion, ce_id, ce_type, ce_source, ce_time,
           ce_subject, ce_sequence, content_type, traceparent, payload
         from outbox_waiting($1, $2, $3, $4, $5, $6)`,
        [topic, fromId, partitions, excluded, rowsMax, bytesMax],
      );
      return rows;
    },

    /**
     * Deletes what Kafka acknowledged. That is right whoever does it, so the epoch is not checked.
     * The id alone does not identify a message: after a failover that lost commits, another one
     * may have it.
     */
    remove: async (rows: readonly SentRow[]): Promise<void> => {
      await pool.query(
        'delete from outbox_events where id = any($1) and ce_id = any($2) and ce_time = any($3)',
        [rows.map(({ id }) => id), rows.map((row) => row.ce_id), rows.map((row) => row.ce_time)],
      );
    },

    /**
     * Parks the key of a message. Writes nothing and resolves to false when the lease has another
     * epoch now, the message is gone or too many keys are parked.
     */
    park: async ({ outboxId, messageId, reason, epoch }: Refusal): Promise<boolean> => {
      const { rowCount } = await pool.query(PARK, [
        outboxId,
        reason,
        relayLease(topic),
        epoch,
        PARKED_KEYS_MAX,
        messageId,
      ]);
      return rowCount === 1;
    },

    /** Stores how many partitions the topic has. Resolves to how many it had at first use. */
    rememberPartitions: async (found: number): Promise<number> => {
      const { rows } = await pool.query<Readonly<{ partitions: number }>>(REMEMBER, [topic, found]);
      if (rows[0] === undefined) throw new Error(`topic ${topic} was stored by another process`);
      return rows[0].partitions;
    },

    /** Whether the outbox holds messages for other topics, which this relay never sends. */
    hasOtherTopics: async (): Promise<boolean> => {
      const { rowCount } = await pool.query('select from outbox_events where topic <> $1 limit 1', [
        topic,
      ]);
      return rowCount === 1;
    },
  };
}

// The lease row stays locked until the commit, so no other process can take over in between.
const PARK = `
  with fence as (
    select from leases where name = $3 and epoch = $4 and expires_at > clock_timestamp() for share
  )
  insert into outbox_parked (topic, message_key, outbox_id, ce_id, reason, epoch)
  select o.topic, o.message_key, o.id, o.ce_id, $2, $4
  from outbox_events o, fence
  where o.id = $1 and o.ce_id = $6 and (select count(*) from outbox_parked) < $5
  on conflict do nothing`;

const REMEMBER = `
  with stored as (
    insert into outbox_topics as known (topic, partitions, partitions_found) values ($1, $2, $2)
    on conflict (topic) do update set partitions_found = excluded.partitions_found
      where known.partitions_found <> excluded.partitions_found
    returning partitions
  )
  select partitions from stored
  union all select partitions from outbox_topics where topic = $1
  limit 1`;
