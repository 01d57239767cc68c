import { v7 as uuidv7 } from 'uuid';
import type { EventMetadata, KeyRef, Loaded, StoredAnswer } from '#src/event-store/event-store.ts';
import type { Decision, GroupCommit } from '#src/event-store/group-commit.ts';
import type { OrderCommand } from './domain/order-commands.ts';
import type { OrderEvent } from './domain/order-events.ts';
import { OrderRejected } from './domain/order-rejected.ts';
import type { RejectionCode } from './domain/order-rejected.ts';
import { allowedCommands, decide, isRepeat } from './domain/order.ts';
import type { Order } from './domain/order.ts';
import { foldOrder } from './order-history.ts';
import { appendToOrder } from './order-units.ts';
import type { OrderAppend, OrderRows } from './order-units.ts';
import type { OrderView } from './order-view.ts';

/** How often a command is decided again after it lost a race, before its caller is told. */
const ATTEMPTS_MAX = 5;

/** One call of a caller, checked and ready to be decided. */
export type OrderRequest = Readonly<{
  orderId: string;
  command: OrderCommand;
  metadata: EventMetadata;
  /** Whether the caller's If-Match lets the order be at this version; absent where none was sent. */
  matches?: (version: number) => boolean;
  idempotency?: Readonly<{ ref: KeyRef; requestHash: Uint8Array }>;
}>;

/** The answer to a command: what is sent, and what is stored under the key. */
export type OrderAnswer = Readonly<{
  status: number;
  etag: string | null;
  location: string | null;
  /** JSON text of an `OrderView`. */
  body: string;
  /** The command took effect earlier, under the same key. */
  replayed: boolean;
}>;

/** How an order stands, told with a refusal. */
export type OrderStanding = Readonly<{ status: string; version: number; allowed: string[] }>;

/** The rules, or the caller's own precondition, said no. */
export class OrderRequestRefused extends Error {
  readonly code: RejectionCode | 'version_mismatch';
  /** Absent where there is no such order. */
  readonly current: OrderStanding | undefined;

  constructor(code: OrderRequestRefused['code'], current: OrderStanding | undefined) {
    super(code);
    this.name = 'OrderRequestRefused';
    this.code = code;
    this.current = current;
  }
}

/** The key was used before, for another request. */
export class IdempotencyKeyReused extends Error {
  constructor() {
    super('the idempotency key was used for another request');
    this.name = 'IdempotencyKeyReused';
  }
}

/** Too many events wait for Kafka to take in more. Nothing was written. */
export class OutboxFull extends Error {
  constructor() {
    super('the outbox is full');
    this.name = 'OutboxFull';
  }
}

export type HandleOrderCommand = (request: OrderRequest) => Promise<OrderAnswer>;

export type OrderCommandDependencies = Readonly<{
  commit: GroupCommit<OrderRows>;
  now: () => Date;
  topic: string;
  /** Whether commands must wait until Kafka has taken some of what is there. */
  outboxIsFull: () => boolean;
}>;

/**
 * Runs commands on orders: replay by key, then repeat, then If-Match, then the rules, in this order.
 * @returns a function that throws OrderRequestRefused, IdempotencyKeyReused, OutboxFull, or what `submit` throws
 */
export function createOrderCommandHandler({
  commit,
  now,
  topic,
  outboxIsFull,
}: OrderCommandDependencies): HandleOrderCommand {
  return async (request) => {
    if (outboxIsFull()) throw new OutboxFull();
    const commandId = uuidv7();
    const isNew = request.command.type === 'PlaceOrder';
    return commit.submit({
      loads: isNew ? [] : [request.orderId],
      ...(request.idempotency && { key: request.idempotency.ref }),
      assumeNewKey: isNew,
      attemptsMax: ATTEMPTS_MAX,
      decide: (loaded) => decideRequest(request, commandId, loaded, { now, topic }),
    });
  };
}

type Settings = Readonly<{ now: () => Date; topic: string }>;

function decideRequest(
  request: OrderRequest,
  commandId: string,
  loaded: Loaded,
  { now, topic }: Settings,
): Decision<OrderRows, OrderAnswer> {
  const { orderId, command, metadata, idempotency } = request;
  const stored = idempotency && loaded.answer(idempotency.ref);
  if (stored) return { result: replay(stored, idempotency.requestHash) };

  const { order, view, lastAt } = foldOrder(loaded.stream(orderId));
  const [first, ...rest] = eventsOf(request, order, view?.version ?? 0);
  const appended = first
    ? appendToOrder({ orderId, view }, [first, ...rest], {
        recordedAt: notBefore(lastAt, now()),
        metadata,
        topic,
      })
    : unchanged(view);
  const result = answerTo(command, appended.view);
  if (!idempotency) return first ? { unit: appended.unit, result } : { result };
  const { ref, requestHash } = idempotency;
  const answer = { ref, commandId, stored: { requestHash, ...result } };
  return { unit: { ...appended.unit, answer }, result };
}

function replay(stored: StoredAnswer, requestHash: Uint8Array): OrderAnswer {
  if (Buffer.compare(stored.requestHash, requestHash) !== 0) throw new IdempotencyKeyReused();
  const { status, etag, location, body } = stored;
  return { status, etag, location, body, replayed: true };
}

function eventsOf({ command, matches }: OrderRequest, order: Order, version: number): OrderEvent[] {
  const current = {
    status: order.status,
    version,
    allowed: allowedCommands(order),
  };
  const exists = order.status !== 'unplaced';
  if (exists && matches && !isRepeat(command, order) && !matches(version)) {
    throw new OrderRequestRefused('version_mismatch', current);
  }
  try {
    return decide(command, order);
  } catch (error) {
    if (!(error instanceof OrderRejected)) throw error;
    throw new OrderRequestRefused(error.code, exists ? current : undefined);
  }
}

/** A repeat: only its answer is written, and only where it came with a key. */
function unchanged(view: OrderView | null): OrderAppend {
  if (!view) throw new OrderRequestRefused('order_not_found', undefined);
  return { view, unit: { appends: [], rows: { summaries: [], messages: [] } } };
}

/** An event is never recorded before the one that it follows, whatever the clock does. */
function notBefore(lastAt: string | null, now: Date): string {
  const instant = now.toISOString();
  return lastAt !== null && lastAt > instant ? lastAt : instant;
}

function answerTo({ type }: OrderCommand, view: OrderView): OrderAnswer {
  const accepted = view.fulfilment === 'compensating' || type === 'FulfilOrder';
  return {
    status: type === 'PlaceOrder' ? 201 : accepted ? 202 : 200,
    etag: `"v${view.version}"`,
    location: type === 'PlaceOrder' ? `/v1/orders/${view.orderId}` : null,
    body: JSON.stringify(view),
    replayed: false,
  };
}
