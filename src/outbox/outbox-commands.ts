import type { Pool } from 'pg';
import {
  BY,
  expectOperands,
  parseDuration,
  Refused,
  runOperatorCommand,
  UsageError,
} from '#src/operators/operator-command.ts';
import type { Call } from '#src/operators/operator-command.ts';
import { relayLease } from './outbox-store.ts';

/** Rows that one statement deletes and one audit entry records. */
const PRUNE_BATCH_ROWS = 10_000;
/** A service that is down for a deployment holds no lease but will be back. */
const RECENTLY_LED = '1 hour';
const REASON_LENGTH_MAX = 500;
const SECONDS_PER_MINUTE = 60;
const SECONDS_PER_HOUR = 3_600;

const USAGE = `Usage: npm run outbox -- <command>

  status                            waiting messages, parked keys, relay and partitions by topic
  parked                            messages that Kafka refused; later ones of their keys wait
  retry <key> | retry --all         send a parked message again, after a change to the topic
  skip <outboxId> --reason <text>   delete a parked message for good; its key continues without it
  prune --older-than <2h> [--force] delete messages that another relay has published
  accept-partitions <topic>         continue after the number of partitions of the topic changed

Every change is recorded in the table outbox_audit, under --by <name> or your user name.`;

const OPTIONS = {
  all: { type: 'boolean' },
  reason: { type: 'string' },
  'older-than': { type: 'string' },
  force: { type: 'boolean' },
  by: BY,
} as const;

type OutboxCall = Call<typeof OPTIONS>;

/**
 * Runs one command of an operator on the outbox. The statement that makes a change also records it.
 * @returns the exit code: 0 done, 1 refused, 2 wrong usage
 */
export function runOutboxCommand(
  args: readonly string[],
  pool: Pool,
  print: (text: string) => void,
): Promise<number> {
  const commands = { status, parked, retry, skip, prune, 'accept-partitions': acceptPartitions };
  return runOperatorCommand({ usage: USAGE, options: OPTIONS, commands }, args, pool, print);
}

/** The outbox of one topic. */
type TopicStatus = Readonly<{
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

async function status(call: OutboxCall): Promise<string> {
  expectOperands(call, []);
  const { rows: topics } = await call.pool.query<TopicStatus>(`
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
    order by topic`);
  if (topics.length === 0) return 'The outbox is empty and was never relayed.';
  return topics.map(describeTopic).join('\n\n');
}

function describeTopic(status: TopicStatus): string {
  const { topic, waiting, oldestAgeSeconds, parked, isLed, epoch } = status;
  const oldest = oldestAgeSeconds === null ? '' : `, the oldest for ${age(oldestAgeSeconds)}`;
  return [
    `topic ${topic}`,
    `  waiting     ${waiting}${oldest}`,
    `  parked      ${parked} keys`,
    `  relay       ${isLed ? `leads, epoch ${epoch}` : 'no process of the service leads'}`,
    `  partitions  ${describePartitions(status)}`,
  ].join('\n');
}

function describePartitions({ topic, partitions, partitionsFound }: TopicStatus): string {
  if (partitions === partitionsFound) return String(partitions ?? 'not known yet');
  return (
    `${partitions}, but the topic has ${partitionsFound} now: the relay is stopped. When consumers ` +
    `have read all that is there, run accept-partitions ${topic}`
  );
}

function age(seconds: number): string {
  if (seconds < 2 * SECONDS_PER_MINUTE) return `${Math.round(seconds)} s`;
  if (seconds < 2 * SECONDS_PER_HOUR) return `${Math.round(seconds / SECONDS_PER_MINUTE)} min`;
  return `${Math.round(seconds / SECONDS_PER_HOUR)} h`;
}

/** A key whose messages wait until an operator decides. `waiting` counts the refused one as well. */
type ParkedKey = Readonly<{
  topic: string;
  messageKey: string;
  outboxId: number;
  messageId: string;
  reason: string;
  parkedAt: Date;
  waiting: number;
}>;

async function parked(call: OutboxCall): Promise<string> {
  expectOperands(call, []);
  const { rows: keys } = await call.pool.query<ParkedKey>(`
    select p.topic, p.message_key as "messageKey", p.outbox_id as "outboxId", p.ce_id as "messageId",
      p.reason, p.parked_at as "parkedAt", count(o.id)::integer as waiting
    from outbox_parked p
    left join outbox_events o on o.topic = p.topic and o.message_key = p.message_key
    group by p.topic, p.message_key
    order by p.parked_at
    limit 1000`);
  if (keys.length === 0) return 'Nothing is parked.';
  const paragraphs = keys.map((key) =>
    [
      `key ${key.messageKey} of topic ${key.topic}`,
      `  message ${key.messageId} (outbox id ${key.outboxId}) was refused: ${key.reason}`,
      `  parked ${key.parkedAt.toISOString()}; ${key.waiting} of its messages wait`,
    ].join('\n'),
  );
  return paragraphs.join('\n\n');
}

/** Frees one parked key, or all of them, for another try. */
async function retry(call: OutboxCall): Promise<string> {
  const [key] = call.options.all ? [] : expectOperands(call, ['<key> or --all']);
  const { rowCount } = await call.pool.query(
    `
      with freed as (
        delete from outbox_parked where $2::text is null or message_key = $2 returning *
      )
      insert into outbox_audit (actor, action, topic, message_key, outbox_id, detail)
      select $1, 'retry', topic, message_key, outbox_id,
        jsonb_build_object('messageId', ce_id, 'refusal', reason)
      from freed`,
    [call.actor, key ?? null],
  );
  if (rowCount === 0)
    throw new Refused(key === undefined ? 'nothing is parked' : `${key} is not parked`);
  return `${rowCount} parked ${rowCount === 1 ? 'key goes' : 'keys go'} out again`;
}

/** Deletes a parked message for good: the only way in which an event never reaches Kafka. */
async function skip(call: OutboxCall): Promise<string> {
  const [outboxId = ''] = expectOperands(call, ['<outboxId>']);
  if (!/^[1-9][0-9]{0,15}$/.test(outboxId)) throw new UsageError('<outboxId> is a number');
  const reason = call.options.reason?.trim() ?? '';
  if (reason === '' || reason.length > REASON_LENGTH_MAX) {
    throw new UsageError(`--reason takes 1 to ${REASON_LENGTH_MAX} characters`);
  }
  const { rows } = await call.pool.query<Readonly<{ messageKey: string; messageId: string }>>(
    `
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
      select message_key as "messageKey", ce_id as "messageId" from freed`,
    [call.actor, outboxId, reason],
  );
  if (rows[0] === undefined) throw new Refused(`message ${outboxId} is not parked`);
  return `skipped ${rows[0].messageId}; key ${rows[0].messageKey} goes on without it`;
}

/** Deletes older messages in parts, each of which is recorded. */
async function prune(call: OutboxCall): Promise<string> {
  expectOperands(call, []);
  const { 'older-than': olderThan = '', force: isForced = false } = call.options;
  const olderThanMs = parseDuration('--older-than', olderThan, '2h');
  if (!isForced) await refuseWhileLed(call.pool);
  const { rows: instants } = await call.pool.query<Readonly<{ before: Date }>>(
    `select now() - $1 * interval '1 ms' as before`,
    [olderThanMs],
  );
  const before = instants[0]?.before;
  const detail = { olderThanMs, isForced, before };
  let total = 0;
  let deleted: number;
  do {
    const { rows } = await call.pool.query<Readonly<{ count: number }>>(PRUNE, [
      call.actor,
      before,
      PRUNE_BATCH_ROWS,
      detail,
    ]);
    deleted = rows[0]?.count ?? 0;
    total += deleted;
  } while (deleted === PRUNE_BATCH_ROWS);
  return `deleted ${total} messages`;
}

/** While a relay of the service leads, the messages in the outbox are not published yet. */
async function refuseWhileLed(pool: Pool): Promise<void> {
  const { rows } = await pool.query<Readonly<{ name: string }>>(
    `select name from leases
     where starts_with(name, $1) and expires_at > clock_timestamp() - $2::interval`,
    [relayLease(''), RECENTLY_LED],
  );
  if (rows[0] === undefined) return;
  throw new Refused(
    `the service itself publishes, or did within ${RECENTLY_LED} (lease "${rows[0].name}"): what ` +
      'is in the outbox may not be in Kafka. --force deletes it all the same',
  );
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

/** Makes the number of partitions that the relay found the expected one. */
async function acceptPartitions(call: OutboxCall): Promise<string> {
  const [topic = ''] = expectOperands(call, ['<topic>']);
  const { rows } = await call.pool.query<Readonly<{ before: number; now: number }>>(
    `
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
      select before.partitions as before, accepted.partitions as now from accepted join before using (topic)`,
    [call.actor, topic],
  );
  if (rows[0] === undefined) {
    throw new Refused(`no relay found a change of partitions of topic ${topic}`);
  }
  return `topic ${topic}: ${rows[0].before} partitions before, ${rows[0].now} from now on`;
}
