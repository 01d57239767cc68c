import { randomUUID } from 'node:crypto';
import type { Pool } from 'pg';
import type { z } from 'zod';
import { createClockWatch, createDatabaseClock } from '#src/database/clock.ts';
import { createReadPool } from '#src/database/database.ts';
import type { ReadPool } from '#src/database/database.ts';
import type { EventMetadata } from '#src/event-store/event-store.ts';
import { createGroupCommit } from '#src/event-store/group-commit.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { safeText, uuid } from '#src/http/fields.ts';
import {
  BY,
  expectOperands,
  Refused,
  runOperatorCommand,
  UsageError,
} from '#src/operators/operator-command.ts';
import type { Call } from '#src/operators/operator-command.ts';
import { OrderRejected } from './domain/order-commands.ts';
import type { RejectionCode } from './domain/order-commands.ts';
import { eraseCustomer } from './erase-customer.ts';
import type { Refusal } from './erase-customer.ts';
import { createOrderCommandHandler } from './handle-order-command.ts';
import type { HandleOrderCommand } from './handle-order-command.ts';

const SHOWN_MAX = 20;
/** There is one caller, so nothing has to wait long or to share. */
const LIMITS = {
  slots: 1,
  batchMax: 100,
  queueMax: 1_000,
  streamMax: 1_000,
  reservedMax: 0,
  waitMaxMs: 60_000,
  oneByOneMsMax: 5_000,
  lockedMsMax: 5_000,
} as const;
const USAGE = `Usage: npm run personal-data -- <command>

  erase --order <orderId>        erase address, contact and payment method of one order
  erase --customer <customerId>  erase them of all orders of a customer

The history of each order stays, and records the erasure, under --by <name> or your user name. An order whose
automatic fulfilment runs or is stuck keeps its data. The exit code is 1 while something is left.`;

const OPTIONS = {
  order: { type: 'string' },
  customer: { type: 'string' },
  by: BY,
} as const;

type Eraser = Readonly<{ handle: HandleOrderCommand; reads: ReadPool; metadata: EventMetadata }>;

/**
 * Runs one command of an operator on personal data. It writes what the service would write, through the same code;
 * the events go to `topic`.
 * @returns the exit code: 0 done, 1 refused or something is left, 2 wrong usage
 */
export function runPersonalDataCommand(
  args: readonly string[],
  pool: Pool,
  topic: string,
  print: (text: string) => void,
): Promise<number> {
  const erase = (call: Call<typeof OPTIONS>) => eraseFor(call, topic);
  const commands = { erase };
  return runOperatorCommand({ usage: USAGE, options: OPTIONS, commands }, args, pool, print);
}

async function eraseFor(call: Call<typeof OPTIONS>, topic: string): Promise<string> {
  expectOperands(call, []);
  const { order, customer } = call.options;
  if ((order === undefined) === (customer === undefined)) {
    throw new UsageError('give either --order or --customer');
  }
  const eraser = await createEraser(call, topic);
  if (order !== undefined) return eraseOrder(eraser, valueOf('--order', uuid, order));
  return eraseAll(eraser, valueOf('--customer', safeText(1, 64), customer ?? ''));
}

/** @throws UsageError */
function valueOf(option: string, schema: z.ZodType<string>, text: string): string {
  const { data, error } = schema.safeParse(text);
  if (data === undefined) throw new UsageError(`${option} ${error?.issues[0]?.message}`);
  return data;
}

function now(): Date {
  return new Date();
}

/** Erasure starts no saga, and does not wait for Kafka: its messages are few. */
async function createEraser({ pool, actor }: Call<typeof OPTIONS>, topic: string): Promise<Eraser> {
  const clock = createClockWatch(createDatabaseClock(pool), now, { error() {}, info() {} });
  await clock.refresh();
  if (clock.isOff()) {
    throw new Refused(
      'the clock of this machine differs from the clock of the database by more than 30 s: correct it',
    );
  }
  const commit = createGroupCommit(createPostgresUnitStore(pool), LIMITS, {
    committed() {},
    failed() {},
  });
  const handle = createOrderCommandHandler({
    commit,
    now,
    topic,
    outboxIsFull: () => false,
    startOrWakeSaga: () => ({ appends: [], sagas: [] }),
    isOwner: async () => true,
    orderOfReference: async () => undefined,
  });
  const metadata = { correlationId: randomUUID(), actor: `operator:${actor}` };
  return { handle, reads: createReadPool(pool), metadata };
}

async function eraseOrder({ handle, metadata }: Eraser, orderId: string): Promise<string> {
  try {
    await handle({ orderId, command: { type: 'ErasePersonalData' }, metadata });
    return `The personal data of order ${orderId} is erased.`;
  } catch (error) {
    if (!(error instanceof OrderRejected)) throw error;
    throw new Refused(`nothing was erased: ${explain({ orderId, code: error.code })}`);
  }
}

/** Goes over all orders, and again if orders came in between that do not refuse. */
async function eraseAll(eraser: Eraser, customerId: string): Promise<string> {
  let erased = 0;
  for (;;) {
    const pass = await onePass(eraser, customerId);
    erased += pass.erased;
    const told = `The personal data of ${erased} orders is erased.`;
    if (pass.left === 0) return told;
    if (pass.erased > 0 || pass.refused.length === 0) continue;
    const shown = pass.refused.slice(0, SHOWN_MAX).map((refusal) => `  ${explain(refusal)}`);
    const more = pass.refused.length - shown.length;
    const rest = more > 0 ? [`  and ${more} more`] : [];
    throw new Refused([`${told} Left, for now:`, ...shown, ...rest].join('\n'));
  }
}

async function onePass({ metadata, ...access }: Eraser, customerId: string) {
  const refused: Refusal[] = [];
  let erased = 0;
  let cursor: string | undefined;
  for (;;) {
    const page = await eraseCustomer(access, customerId, { cursor, metadata });
    erased += page.erased;
    refused.push(...page.refused);
    if (page.nextCursor === null) return { erased, refused, left: page.left };
    cursor = page.nextCursor;
  }
}

function explain({ orderId, code }: Refusal): string {
  const why: Partial<Record<RejectionCode, string>> = {
    fulfilment_running: 'its automatic fulfilment runs or is stuck: wait, or repair it',
    order_not_found: 'there is no such order',
    version_conflict: 'others are changing it: try again',
  };
  return `order ${orderId}: ${why[code] ?? code}`;
}
