import { randomUUID } from 'node:crypto';
import type {
  EventMetadata,
  Loaded,
  SagaWorkRow,
  StoredResponse,
  StoredEvent,
  StreamAppend,
} from '#src/event-store/event-store.ts';
import type { Decision, GroupCommit } from '#src/event-store/group-commit.ts';
import { VersionConflict, recordedAt } from '#src/event-store/event-store.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { requireSameRequest } from '#src/http/idempotency.ts';
import type { KeyedRequest } from '#src/http/idempotency.ts';
import type { OrderCommand } from './domain/order-commands.ts';
import type { OrderEvent } from './domain/order-events.ts';
import { OrderRejected } from './domain/order-rejected.ts';
import type { RejectionCode } from './domain/order-rejected.ts';
import { allowedCommands, decide, isRepeat } from './domain/order.ts';
import { ORDER_CATEGORY } from './order-stream.ts';
import { foldOrder } from './order-history.ts';
import type { OrderHistory } from './order-history.ts';
import { appendToOrder } from './order-units.ts';
import type { OrderAppend, OrderAt } from './order-units.ts';
import { StreamDamaged } from './order-view.ts';
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
  keyed?: KeyedRequest | undefined;
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
  readonly code: RejectionCode | 'version_mismatch' | 'version_conflict';
  /** Absent where there is no such order, or where it could not be read any more. */
  readonly current: OrderStanding | undefined;

  constructor(code: OrderRequestRefused['code'], current: OrderStanding | undefined) {
    super(code);
    this.name = 'OrderRequestRefused';
    this.code = code;
    this.current = current;
  }
}

/** Too many events wait for Kafka to take in more. Nothing was written. */
export class OutboxFull extends Error {
  constructor() {
    super('the outbox is full');
    this.name = 'OutboxFull';
  }
}

/** What a unit must hold beside these events of an order: its saga, begun or woken. */
export type FollowUp = (
  orderId: string,
  events: readonly OrderEvent[],
  context: Readonly<{ recordedAt: string; metadata: EventMetadata }>,
) => Readonly<{ appends: readonly StreamAppend[]; sagas: readonly SagaWorkRow[] }>;

export type HandleOrderCommand = (request: OrderRequest) => Promise<OrderAnswer>;

export type OrderCommandDependencies = Readonly<{
  commit: GroupCommit;
  now: () => Date;
  topic: string;
  /** Whether commands must wait until Kafka has taken some of what is there. */
  outboxIsFull: () => boolean;
  followUp: FollowUp;
}>;

/**
 * Runs commands on orders: replay by key, then repeat, then If-Match, then the rules, in this order.
 * @returns a function that throws OrderRequestRefused, OutboxFull, the Problem `idempotency_key_reused`, or
 * what `submit` throws
 */
export function createOrderCommandHandler(
  dependencies: OrderCommandDependencies,
): HandleOrderCommand {
  const { commit } = dependencies;
  return async (request) => {
    const commandId = randomUUID();
    const isNew = request.command.type === 'PlaceOrder';
    try {
      return await commit.submit({
        loads: isNew ? [] : [request.orderId],
        ...(request.keyed && { key: request.keyed.ref }),
        assumeNewKey: isNew,
        attemptsMax: ATTEMPTS_MAX,
        decide: (loaded) => decideRequest(request, commandId, loaded, dependencies),
      });
    } catch (error) {
      if (!(error instanceof VersionConflict)) throw error;
      const current = await standingNow(commit, request.orderId);
      throw new OrderRequestRefused('version_conflict', current);
    }
  };
}

/** What a lost race was decided on is over by now, so it is read anew; not told where that fails. */
async function standingNow(
  commit: GroupCommit,
  orderId: string,
): Promise<OrderStanding | undefined> {
  try {
    return await commit.submit({
      loads: [orderId],
      attemptsMax: 1,
      decide: (loaded) => ({
        result: standingOf(foldOrder(loaded.stream(orderId, ORDER_CATEGORY))),
      }),
    });
  } catch {
    return undefined;
  }
}

function decideRequest(
  request: OrderRequest,
  commandId: string,
  loaded: Loaded,
  dependencies: OrderCommandDependencies,
): Decision<OrderAnswer> {
  const { orderId, command, metadata, keyed } = request;
  const stream = loaded.stream(orderId, ORDER_CATEGORY);
  const stored = keyed && loaded.response(keyed.ref);
  if (stored) return { result: replay(stored, keyed, command, stream) };

  const { order, view, lastAt } = foldOrder(stream);
  const [first, ...rest] = eventsOf(request, { order, view });
  if (first && dependencies.outboxIsFull()) throw new OutboxFull();
  const appended = first
    ? append({ orderId, view }, [first, ...rest], dependencies, {
        recordedAt: recordedAt(dependencies.now(), lastAt),
        metadata,
      })
    : unchanged(view);
  const result = answerTo(command, appended.view);
  if (!keyed) return first ? { unit: appended.unit, result } : { result };
  const requestHash = keyed.hash;
  const { status, etag, location, body } = result;
  const kept = first
    ? { requestHash, status, etag, location, body }
    : { requestHash, version: appended.view.version };
  const response = { ref: keyed.ref, commandId, stored: kept };
  return { unit: { ...appended.unit, response }, result };
}

function append(
  at: OrderAt,
  events: readonly [OrderEvent, ...OrderEvent[]],
  { topic, followUp }: OrderCommandDependencies,
  context: Readonly<{ recordedAt: string; metadata: EventMetadata }>,
): OrderAppend {
  const { view, unit } = appendToOrder(at, events, { ...context, topic });
  const { appends, sagas } = followUp(at.orderId, events, context);
  return {
    view,
    unit: { ...unit, appends: [...unit.appends, ...appends], sagas },
  };
}

/** A reference is folded anew, up to the version that the first answer showed. */
function replay(
  stored: StoredResponse,
  keyed: KeyedRequest,
  command: OrderCommand,
  stream: readonly StoredEvent[],
): OrderAnswer {
  requireSameRequest(stored.requestHash, keyed);
  if (!('version' in stored)) {
    const { status, etag, location, body } = stored;
    return { status, etag, location, body, replayed: true };
  }
  const { view } = foldOrder(stream.filter(({ version }) => version <= stored.version));
  if (view?.version !== stored.version) throw new StreamDamaged(stored.version);
  return { ...answerTo(command, view), replayed: true };
}

type Folded = Pick<OrderHistory, 'order' | 'view'>;

function eventsOf({ command, matches }: OrderRequest, { order, view }: Folded): OrderEvent[] {
  if (view && matches && !isRepeat(command, order) && !matches(view.version)) {
    throw new OrderRequestRefused('version_mismatch', standingOf({ order, view }));
  }
  try {
    return decide(command, order);
  } catch (error) {
    if (!(error instanceof OrderRejected)) throw error;
    throw new OrderRequestRefused(error.code, standingOf({ order, view }));
  }
}

function standingOf({ order, view }: Folded): OrderStanding | undefined {
  return view
    ? { status: view.status, version: view.version, allowed: allowedCommands(order) }
    : undefined;
}

/** A repeat: only its answer is written, and only where it came with a key. */
function unchanged(view: OrderView | null): OrderAppend {
  if (!view) throw new OrderRequestRefused('order_not_found', undefined);
  return { view, unit: { appends: [] } };
}

function answerTo({ type }: OrderCommand, view: OrderView): OrderAnswer {
  const { orderId } = view;
  return {
    status: statusAfter(type, view),
    etag: versionETag(view.version),
    location: locationAfter(type, orderId),
    body: JSON.stringify(view),
    replayed: false,
  };
}

function statusAfter(type: OrderCommand['type'], { fulfilment }: OrderView): number {
  if (type === 'PlaceOrder') return 201;
  const isLeftToSaga = type === 'CancelOrder' && fulfilment === 'compensating';
  return isLeftToSaga || type === 'FulfilOrder' ? 202 : 200;
}

function locationAfter(type: OrderCommand['type'], orderId: string): string | null {
  if (type === 'PlaceOrder') return `/v1/orders/${orderId}`;
  return type === 'FulfilOrder' ? `/v1/orders/${orderId}/fulfilment` : null;
}
