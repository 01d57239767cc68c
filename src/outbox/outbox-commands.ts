import { hostname, userInfo } from 'node:os';
import { parseArgs } from 'node:util';
import type { Pool } from 'pg';
import { createOutboxAdmin, OutboxCommandRefused } from './outbox-admin.ts';
import type { OutboxAdmin, ParkedKey, TopicStatus } from './outbox-admin.ts';

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
  by: { type: 'string' },
} as const;

const SECONDS_PER_MINUTE = 60;
const SECONDS_PER_HOUR = 3_600;
const UNIT_MS: Readonly<Record<string, number>> = {
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
const REASON_LENGTH_MAX = 500;

/** The arguments make no valid command. The message says why. */
class UsageError extends Error {}

type Options = Readonly<ReturnType<typeof parse>['values']>;
type Command = (
  admin: OutboxAdmin,
  operands: readonly string[],
  options: Options,
) => Promise<string>;

const commands: Readonly<Record<string, Command>> = {
  status: async (admin, operands) => {
    expectOperands(operands, []);
    return describeStatus(await admin.status());
  },

  parked: async (admin, operands) => {
    expectOperands(operands, []);
    return describeParked(await admin.parked());
  },

  retry: async (admin, operands, { all }) => {
    const keys = all === true ? undefined : expectOperands(operands, ['<key> or --all']);
    const count = await admin.retry(keys?.[0]);
    return `${count} parked ${count === 1 ? 'key goes' : 'keys go'} out again`;
  },

  skip: async (admin, operands, { reason }) => {
    const [outboxId] = expectOperands(operands, ['<outboxId>']);
    if (!/^[1-9][0-9]{0,15}$/.test(outboxId ?? '')) throw new UsageError('<outboxId> is a number');
    const { messageKey, messageId } = await admin.skip(Number(outboxId), expectReason(reason));
    return `skipped ${messageId}; key ${messageKey} goes on without it`;
  },

  prune: async (admin, operands, { 'older-than': age, force }) => {
    expectOperands(operands, []);
    const count = await admin.prune(expectDurationMs(age), force === true);
    return `deleted ${count} messages`;
  },

  'accept-partitions': async (admin, operands) => {
    const [topic = ''] = expectOperands(operands, ['<topic>']);
    const { before, now } = await admin.acceptPartitions(topic);
    return `topic ${topic}: ${before} partitions before, ${now} from now on`;
  },
};

/**
 * Runs one command of an operator and prints its result.
 * @returns the exit code: 0 done, 1 refused, 2 wrong usage
 */
export async function runOutboxCommand(
  args: readonly string[],
  pool: Pool,
  print: (text: string) => void,
): Promise<number> {
  try {
    const { values, positionals } = parse(args);
    const [name = '', ...operands] = positionals;
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (command === undefined) throw new UsageError(name ? `unknown command ${name}` : '');
    const admin = createOutboxAdmin(pool, values.by ?? userName());
    print(await command(admin, operands, values));
    return 0;
  } catch (error) {
    if (error instanceof OutboxCommandRefused) {
      print(error.message);
      return 1;
    }
    if (!(error instanceof UsageError)) throw error;
    print(error.message ? `${error.message}\n\n${USAGE}` : USAGE);
    return 2;
  }
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function expectOperands(operands: readonly string[], names: readonly string[]): readonly string[] {
  const missing = names[operands.length];
  if (missing !== undefined) throw new UsageError(`${missing} is missing`);
  const extra = operands[names.length];
  if (extra !== undefined) throw new UsageError(`${extra} is too much`);
  return operands;
}

function expectReason(reason: string | undefined): string {
  const text = reason?.trim() ?? '';
  if (text === '' || text.length > REASON_LENGTH_MAX) {
    throw new UsageError(`--reason takes 1 to ${REASON_LENGTH_MAX} characters`);
  }
  return text;
}

function expectDurationMs(text: string | undefined): number {
  const [, count, unit = ''] = /^([0-9]{1,6})([smhd])$/.exec(text ?? '') ?? [];
  const unitMs = UNIT_MS[unit];
  if (unitMs === undefined)
    throw new UsageError('--older-than takes a number and s, m, h or d: 2h');
  return Number(count) * unitMs;
}

/** A user id may have no name, for example in a container. */
function userName(): string {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    return `${process.getuid?.() ?? 'unknown'}@${hostname()}`;
  }
}

function describeStatus(topics: readonly TopicStatus[]): string {
  if (topics.length === 0) return 'The outbox is empty and was never relayed.';
  return topics.map(describeTopic).join('\n\n');
}

function describeParked(keys: readonly ParkedKey[]): string {
  if (keys.length === 0) return 'Nothing is parked.';
  const paragraphs = keys.map(
    ({ topic, messageKey, outboxId, messageId, reason, parkedAt, waiting }) =>
      [
        `key ${messageKey} of topic ${topic}`,
        `  message ${messageId} (outbox id ${outboxId}) was refused: ${reason}`,
        `  parked ${parkedAt.toISOString()}; ${waiting} of its messages wait`,
      ].join('\n'),
  );
  return paragraphs.join('\n\n');
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
