import type { Pool } from 'pg';
import type { OutboxRow } from './outbox.ts';

/** Past this many the topic is at fault, not the messages: nothing more is parked. */
const PARKED_KEYS_MAX = 1_000;

/** Which rows to read: some partitions may have to wait. */
export type Window = Readonly<{
  /** Where to look from; what waits of a key that is found comes from below it too. */
  fromId: number;
  partitions: number;
  excluded: readonly number[];
  rowsMax: number;
  bytesMax: number;
}>;

/** What tells a message from another that got its id, and one of the same version even. */
export type SentRow = Pick<OutboxRow, 'id' | 'ce_id' | 'ce_time'>;

/** A message that Kafka refuses, and who says so. */
export type Refusal = Readonly<{
  outboxId: number;
  messageId: string;
  reason: string;
  lease: string;
  epoch: number;
}>;

export type OutboxStore = ReturnType<typeof createOutboxStore>;

/** The relay's statements on the outbox of one topic. */
export function createOutboxStore(pool: Pool, topic: string) {
  return {
    /**
     * What is there to publish: the start of what waits of each key, by version. Never from the last id
     * seen, since a transaction may commit a lower id later than a higher one.
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
     * Removes what Kafka acknowledged. Right whoever does it, so it is not fenced. Not by id alone: after
     * a fail-over that lost commits, another message may have got the id of one that was sent before it.
     */
    remove: async (rows: readonly SentRow[]): Promise<void> => {
      await pool.query(
        'delete from outbox_events where id = any($1) and ce_id = any($2) and ce_time = any($3)',
        [rows.map(({ id }) => id), rows.map((row) => row.ce_id), rows.map((row) => row.ce_time)],
      );
    },

    /**
     * Parks the key of a message. Writes nothing and resolves to false when the lease has another epoch
     * by now, the message is gone or too many keys are parked.
     */
    park: async ({ outboxId, messageId, reason, lease, epoch }: Refusal): Promise<boolean> => {
      const { rowCount } = await pool.query(PARK, [
        outboxId,
        reason,
        lease,
        epoch,
        PARKED_KEYS_MAX,
        messageId,
      ]);
      return rowCount === 1;
    },

    /** Notes how many partitions the topic has; resolves to how many it had when first used. */
    rememberPartitions: async (found: number): Promise<number> => {
      const { rows } = await pool.query<Readonly<{ partitions: number }>>(
        `insert into outbox_topics as known (topic, partitions, partitions_found) values ($1, $2, $2)
         on conflict (topic) do update set partitions_found = excluded.partitions_found
           where known.partitions_found <> excluded.partitions_found
         returning partitions`,
        [topic, found],
      );
      return rows[0]?.partitions ?? (await storedPartitions(pool, topic));
    },

    /** Whether messages for other topics wait, which this relay never sends. */
    hasOtherTopics: async (): Promise<boolean> => {
      const { rowCount } = await pool.query('select from outbox_events where topic <> $1 limit 1', [
        topic,
      ]);
      return rowCount === 1;
    },
  };
}

async function storedPartitions(pool: Pool, topic: string): Promise<number> {
  const { rows } = await pool.query<Readonly<{ partitions: number }>>(
    'select partitions from outbox_topics where topic = $1',
    [topic],
  );
  if (rows[0] === undefined) throw new Error(`topic ${topic} is not remembered`);
  return rows[0].partitions;
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
