import type { Pool } from 'pg';
import { relayLease } from './outbox-store.ts';

/** Rows that one statement deletes and one audit entry records. */
const PRUNE_BATCH_ROWS = 10_000;
/** A service that is down for a deployment holds no lease but will be back. */
const RECENTLY_LED = '1 hour';

/** The command cannot be carried out now. The message says why. */
export class OutboxCommandRefused extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'OutboxCommandRefused';
  }
}

/** The outbox of one topic. */
export type TopicStatus = Readonly<{
  topic: string;
  waiting: number;
  oldestAgeSeconds: number | null;
  parked: number;
  partitions: number | null;
  partitionsFound: number | null;
  /** Whether a relay of the service leads. */
  isLed: boolean;
  epoch: number | null;
}>;

/** A key whose messages wait until an operator decides. */
export type ParkedKey = Readonly<{
  topic: string;
  messageKey: string;
  outboxId: number;
  messageId: string;
  reason: string;
  parkedAt: Date;
  /** Waiting messages of the key, the refused one included. */
  waiting: number;
}>;

export type OutboxAdmin = ReturnType<typeof createOutboxAdmin>;

/**
 * What operators can see and do. The statement that makes a change also records it, with its actor.
 */
export function createOutboxAdmin(pool: Pool, actor: string) {
  return {
    status: async (): Promise<TopicStatus[]> => (await pool.query<TopicStatus>(STATUS)).rows,

    parked: async (): Promise<ParkedKey[]> => (await pool.query<ParkedKey>(PARKED)).rows,

    /** Frees one parked key, or all of them, for another try. Resolves to how many. */
    retry: async (messageKey?: string): Promise<number> => {
      const { rowCount } = await pool.query(RETRY, [actor, messageKey ?? null]);
      if (rowCount === 0) throw new OutboxCommandRefused(notParked(messageKey));
      return rowCount ?? 0;
    },

    /** Deletes a parked message for good: the only way in which an event never reaches Kafka. */
    skip: async (outboxId: number, reason: string) => {
      const { rows } = await pool.query<Readonly<{ messageKey: string; messageId: string }>>(SKIP, [
        actor,
        outboxId,
        reason,
      ]);
      if (rows[0] === undefined) throw new OutboxCommandRefused(notParked(`message ${outboxId}`));
      return rows[0];
    },

    /** Deletes older messages in parts, each of which is recorded. Resolves to how many. */
    prune: async (olderThanMs: number, isForced: boolean): Promise<number> => {
      if (!isForced) await refuseWhileLed(pool);
      const { rows } = await pool.query<Readonly<{ before: Date }>>(
        `select now() - $1 * interval '1 ms' as before`,
        [olderThanMs],
      );
      const before = rows[0]?.before;
      return pruneBefore(pool, before, actor, { olderThanMs, isForced, before });
    },

    /** Makes the number of partitions that the relay found the expected one. */
    acceptPartitions: async (topic: string) => {
      const { rows } = await pool.query<Readonly<{ before: number; now: number }>>(ACCEPT, [
        actor,
        topic,
      ]);
      if (rows[0] === undefined) {
        throw new OutboxCommandRefused(`no relay found a change of partitions of topic ${topic}`);
      }
      return rows[0];
    },
  };
}

function notParked(what: string | undefined): string {
  return what === undefined ? 'nothing is parked' : `${what} is not parked`;
}

/** While a relay of the service leads, the messages in the outbox are not published yet. */
async function refuseWhileLed(pool: Pool): Promise<void> {
  const { rows } = await pool.query<Readonly<{ name: string }>>(
    `select name from leases
     where starts_with(name, $1) and expires_at > clock_timestamp() - $2::interval`,
    [relayLease(''), RECENTLY_LED],
  );
  if (rows[0] === undefined) return;
  throw new OutboxCommandRefused(
    `the service itself publishes, or did within ${RECENTLY_LED} (lease "${rows[0].name}"): what ` +
      'is in the outbox may not be in Kafka. --force deletes it all the same',
  );
}

async function pruneBefore(
  pool: Pool,
  before: Date | undefined,
  actor: string,
  detail: Readonly<Record<string, unknown>>,
): Promise<number> {
  let total = 0;
  for (;;) {
    const { rows } = await pool.query<Readonly<{ count: number }>>(PRUNE, [
      actor,
      before,
      PRUNE_BATCH_ROWS,
      detail,
    ]);
    const count = rows[0]?.count ?? 0;
    total += count;
    if (count < PRUNE_BATCH_ROWS) return total;
  }
}

const PRUNE = `
  with pruned as (
    delete from outbox_events where id in (
      select id from outbox_events where created_at < $2 order by id limit $3
    ) returning id
  ),
  counted as (
    select count(*)::integer as count, min(id) as first_id, max(id) as last_id from pruned
  ),
  recorded as (
    insert into outbox_audit (actor, action, detail)
    select $1, 'prune', $4::jsonb
      || jsonb_build_object('count', count, 'firstId', first_id, 'lastId', last_id)
    from counted
  )
  select count from counted`;

const STATUS = `
  select topic, coalesce(o.waiting, 0) as waiting, o."oldestAgeSeconds", coalesce(p.parked, 0) as parked,
    t.partitions, t.partitions_found as "partitionsFound",
    coalesce(l.expires_at > clock_timestamp(), false) as "isLed", l.epoch
  from (
    select topic, count(*)::integer as waiting,
      extract(epoch from clock_timestamp() - min(created_at))::float8 as "oldestAgeSeconds"
    from outbox_events group by topic
  ) o
  full join (select topic, count(*)::integer as parked from outbox_parked group by topic) p using (topic)
  full join outbox_topics t using (topic)
  left join leases l on l.name = '${relayLease('')}' || topic
  order by topic`;

const PARKED = `
  select p.topic, p.message_key as "messageKey", p.outbox_id as "outboxId", p.ce_id as "messageId",
    p.reason, p.parked_at as "parkedAt", count(o.id)::integer as waiting
  from outbox_parked p
  left join outbox_events o on o.topic = p.topic and o.message_key = p.message_key
  group by p.topic, p.message_key
  order by p.parked_at
  limit 1000`;

const RETRY = `
  with freed as (
    delete from outbox_parked where $2::text is null or message_key = $2 returning *
  )
  insert into outbox_audit (actor, action, topic, message_key, outbox_id, detail)
  select $1, 'retry', topic, message_key, outbox_id,
    jsonb_build_object('messageId', ce_id, 'refusal', reason)
  from freed`;

const SKIP = `
  with freed as (delete from outbox_parked where outbox_id = $2 returning *),
  skipped as (
    delete from outbox_events o using freed
    where o.id = freed.outbox_id and o.ce_id = freed.ce_id returning o.*
  ),
  recorded as (
    insert into outbox_audit (actor, action, topic, message_key, outbox_id, reason, detail)
    select $1, 'skip', f.topic, f.message_key, f.outbox_id, $3,
      jsonb_build_object('messageId', f.ce_id, 'type', s.ce_type, 'refusal', f.reason)
    from freed f left join skipped s on s.id = f.outbox_id
  )
  select message_key as "messageKey", ce_id as "messageId" from freed`;

const ACCEPT = `
  with before as (select topic, partitions from outbox_topics where topic = $2),
  accepted as (
    update outbox_topics t set partitions = t.partitions_found
    where t.topic = $2 and t.partitions <> t.partitions_found returning t.topic, t.partitions
  ),
  recorded as (
    insert into outbox_audit (actor, action, topic, detail)
    select $1, 'accept_partitions', topic,
      jsonb_build_object('before', before.partitions, 'now', accepted.partitions)
    from accepted join before using (topic)
  )
  select before.partitions as before, accepted.partitions as now from accepted join before using (topic)`;
