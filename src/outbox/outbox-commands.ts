import { hostname, userInfo } from 'node:os';
import { parseArgs } from 'node:util';
import type { Pool } from 'pg';
import { createOutboxAdmin, OutboxCommandRefused } from './outbox-admin.ts';
import type { OutboxAdmin } from './outbox-admin.ts';
import { describeParked, describeStatus } from './outbox-report.ts';

const USAGE = `Usage: npm run outbox -- <command>

  status                            what waits, who relays, topics and their partitions
  parked                            messages that Kafka refused; later messages of their keys wait
  retry <key> | retry --all         send a parked message again (after a change to the topic, say)
  skip <outboxId> --reason <text>   give up a parked message for good; its key goes on without it
  prune --older-than <2h> [--force] delete messages that an outside relay has published
  accept-partitions <topic>         go on after the topic got another number of partitions

Every change is recorded in the table outbox_audit, with --by <name> or else your user name.`;

const OPTIONS = {
  all: { type: 'boolean' },
  reason: { type: 'string' },
  'older-than': { type: 'string' },
  force: { type: 'boolean' },
  by: { type: 'string' },
} as const;

const UNIT_MS: Readonly<Record<string, number>> = {
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
const REASON_LENGTH_MAX = 500;

class UsageWrong extends Error {}

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
    if (!/^[1-9][0-9]{0,15}$/.test(outboxId ?? '')) throw new UsageWrong('<outboxId> is a number');
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
 * Runs one command of an operator and prints its answer.
 * @returns the exit code: 0 done, 1 refused, 2 not understood
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
    if (command === undefined) throw new UsageWrong(name ? `unknown command ${name}` : '');
    const admin = createOutboxAdmin(pool, values.by ?? userName());
    print(await command(admin, operands, values));
    return 0;
  } catch (error) {
    if (error instanceof OutboxCommandRefused) {
      print(error.message);
      return 1;
    }
    if (!(error instanceof UsageWrong)) throw error;
    print(error.message ? `${error.message}\n\n${USAGE}` : USAGE);
    return 2;
  }
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new UsageWrong(error instanceof Error ? error.message : 'not understood');
  }
}

function expectOperands(operands: readonly string[], names: readonly string[]): readonly string[] {
  const missing = names[operands.length];
  if (missing !== undefined) throw new UsageWrong(`${missing} is missing`);
  const extra = operands[names.length];
  if (extra !== undefined) throw new UsageWrong(`${extra} is too much`);
  return operands;
}

function expectReason(reason: string | undefined): string {
  const text = reason?.trim() ?? '';
  if (text === '' || text.length > REASON_LENGTH_MAX) {
    throw new UsageWrong(`--reason takes 1 to ${REASON_LENGTH_MAX} characters`);
  }
  return text;
}

function expectDurationMs(text: string | undefined): number {
  const [, count, unit = ''] = /^([0-9]{1,6})([smhd])$/.exec(text ?? '') ?? [];
  const unitMs = UNIT_MS[unit];
  if (unitMs === undefined)
    throw new UsageWrong('--older-than takes a number and s, m, h or d: 2h');
  return Number(count) * unitMs;
}

/** A container may run under a user id that has no name. */
function userName(): string {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    return `${process.getuid?.() ?? 'unknown'}@${hostname()}`;
  }
}
