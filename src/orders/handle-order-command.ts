import { randomUUID } from 'node:crypto';
import type {
  CommandResponse,
  EventMetadata,
  Loaded,
  SagaWorkRow,
  StoredEvent,
  StoredResponse,
  StreamAppend,
  Unit,
  Verdict,
} from '#src/event-store/event-store.ts';
import type { Decision, GroupCommit } from '#src/event-store/group-commit.ts';
import { VersionConflict, recordedAt } from '#src/event-store/event-store.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { requireSameRequest } from '#src/http/idempotency.ts';
import type { KeyedRequest } from '#src/http/idempotency.ts';
import type { OrderCommand } from './domain/order-commands.ts';
import { ORDER_CATEGORY } from './domain/order-events.ts';
import type { OrderEvent } from './domain/order-events.ts';
import { OrderRejected, decide, isDuplicate } from './domain/order-commands.ts';
import { StreamDamaged, requestedRefund, toJson } from './domain/order.ts';
import type { Order } from './domain/order.ts';
import { appendToOrder, foldOrder } from './order-stream.ts';
import type { PersonalData } from './personal-data.ts';
import { personalDataRows } from './personal-data-store.ts';

/** How often a command is decided in all while it loses races. Then its caller gets `version_conflict`. */
const ATTEMPTS_MAX = 5;

/** A valid request for a command. */
export type OrderRequest = Readonly<{
  orderId: string;
  command: OrderCommand;
  metadata: EventMetadata;
  /** Whether If-Match allows this version. Absent if the request has no If-Match. */
  matches?: (version: number) => boolean;
  keyed?: KeyedRequest | undefined;
  /** Stored beside the events, with what the command says of it. */
  personalData?: PersonalData | undefined;
  /** Whether the address of the command is the one that the order has at this version. */
  isRepeated?: (version: number) => boolean;
  /** The customer who sends it. The order of another customer is then as if it did not exist. */
  customerId?: string | undefined;
}>;

/** Too many messages wait in the outbox. Nothing was written. */
export class OutboxFull extends Error {
  constructor() {
    super('the outbox is full');
    this.name = 'OutboxFull';
  }
}

/**
 * Starts the saga of an order, or wakes it, where events ask for it.
 * @returns what the unit of the events must hold for this
 */
export type StartOrWakeSaga = (
  orderId: string,
  events: readonly OrderEvent[],
  context: Readonly<{ recordedAt: string; metadata: EventMetadata }>,
) => Readonly<{ appends: readonly StreamAppend[]; sagas: readonly SagaWorkRow[] }>;

/** `replayed`: an earlier request with the same key got this response. */
type HandledResponse = CommandResponse & Readonly<{ replayed: boolean }>;

export type HandleOrderCommand = (request: OrderRequest) => Promise<HandledResponse>;

export type OrderCommandHandlerDependencies = Readonly<{
  commit: GroupCommit;
  now: () => Date;
  /** The Kafka topic of the messages. */
  topic: string;
  /** Whether commands must wait until Kafka has taken more messages. */
  outboxIsFull: () => boolean;
  startOrWakeSaga: StartOrWakeSaga;
  /** Whether the order exists and is the customer's. */
  isOwner: (orderId: string, customerId: string) => Promise<boolean>;
  /** The order that this principal has placed under this reference. */
  orderOfReference: (principal: string, reference: string) => Promise<string | undefined>;
}>;

/**
 * Runs commands on orders.
 * @returns a function that throws OrderRejected, OutboxFull, the Problem `idempotency_key_reused`, or
 * what `submit` throws
 */
export function createOrderCommandHandler(
  dependencies: OrderCommandHandlerDependencies,
): HandleOrderCommand {
  const { commit, isOwner, orderOfReference } = dependencies;
  /** The order of another is not even loaded: that would take longer than for a missing one, and show. */
  const isLoaded = async ({ command, orderId, customerId }: OrderRequest) =>
    command.type !== 'PlaceOrder' &&
    (customerId === undefined || (await isOwner(orderId, customerId)));
  const nameFirst = async ({ command, metadata }: OrderRequest) => {
    const reference = command.type === 'PlaceOrder' ? command.externalReference : undefined;
    const first = reference && (await orderOfReference(metadata.actor, reference));
    return new OrderRejected('reference_taken', null, first ? { orderId: first } : undefined);
  };
  return async (request) => {
    const commandId = randomUUID();
    const isNew = request.command.type === 'PlaceOrder';
    try {
      return await commit.submit({
        loads: (await isLoaded(request)) ? [request.orderId] : [],
        ...(request.keyed && { key: request.keyed.ref }),
        assumeNewKey: isNew,
        attemptsMax: ATTEMPTS_MAX,
        decide: (loaded, refusedBy) =>
          decideRequest({ ...request, commandId, refusedBy }, loaded, dependencies),
      });
    } catch (error) {
      if (error instanceof ReferenceTaken) throw await nameFirst(request);
      if (!(error instanceof VersionConflict)) throw error;
      const order = await readAgain(commit, request.orderId);
      throw new OrderRejected('version_conflict', order);
    }
  };
}

/** The principal has already placed an order under this reference. */
class ReferenceTaken extends Error {}

/** The order after the lost races, for the caller to see. Null if it cannot be read. */
async function readAgain(commit: GroupCommit, orderId: string): Promise<Order | null> {
  try {
    return await commit.submit({
      loads: [orderId],
      attemptsMax: 1,
      decide: (loaded) => ({ result: foldOrder(loaded.stream(orderId, ORDER_CATEGORY)) }),
    });
  } catch {
    return null;
  }
}

/**
 * Decides in this order: whether the order is the customer's own, replay by key, duplicate, If-Match, rules. The owner
 * of an order never changes.
 */
function decideRequest(
  request: OrderRequest & Readonly<{ commandId: string; refusedBy: Verdict | undefined }>,
  loaded: Loaded,
  dependencies: OrderCommandHandlerDependencies,
): Decision<HandledResponse> {
  const { orderId, command, metadata, matches, isRepeated, keyed, commandId, refusedBy } = request;
  const stream = ownStream(loaded.stream(orderId, ORDER_CATEGORY), request);
  const stored = keyed && loaded.response(keyed.ref);
  if (stored) return { result: replay(stored, keyed, request, stream) };

  if (refusedBy === 'reference') throw new ReferenceTaken();
  const order = foldOrder(stream);
  if (order && (isDuplicate(command, order) || isRepeated?.(order.version))) {
    const result = { ...responseTo(command, order), replayed: false };
    if (!keyed) return { result };
    const reference = { requestHash: keyed.hash, version: order.version };
    const response = { ref: keyed.ref, commandId, stored: reference };
    return { unit: { appends: [], response }, result };
  }
  if (order && matches && !matches(order.version)) {
    throw new OrderRejected('version_mismatch', order);
  }
  const events = decide(command, order);

  if (dependencies.outboxIsFull()) throw new OutboxFull();
  const { now, topic, startOrWakeSaga } = dependencies;
  const context = { recordedAt: recordedAt(now(), stream.at(-1)?.recordedAt), metadata, topic };
  const { order: after, unit } = appendToOrder(orderId, order, events, context);
  const saga = startOrWakeSaga(orderId, events, context);
  const response = responseTo(command, after);
  return {
    unit: {
      ...unit,
      ...besideEvents(request),
      personalData: personalDataRows(after, events, request.personalData),
      appends: [...unit.appends, ...saga.appends],
      sagas: saga.sagas,
      ...(keyed && {
        response: { ref: keyed.ref, commandId, stored: { requestHash: keyed.hash, ...response } },
      }),
    },
    result: { ...response, replayed: false },
  };
}

/** What a command writes besides what follows from its events: a reference. */
function besideEvents({ command, orderId, metadata }: OrderRequest): Partial<Unit> {
  const reference = command.type === 'PlaceOrder' ? command.externalReference : undefined;
  if (reference === undefined) return {};
  return { reference: { principal: metadata.actor, reference, order_id: orderId } };
}

/** Without events where the order is another customer's. */
function ownStream(
  stream: readonly StoredEvent[],
  { customerId }: OrderRequest,
): readonly StoredEvent[] {
  if (customerId === undefined) return stream;
  return foldOrder(stream)?.customerId === customerId ? stream : [];
}

/** A reference is folded again, up to the version that the first response showed. */
function replay(
  stored: StoredResponse,
  keyed: KeyedRequest,
  { command, customerId }: OrderRequest,
  stream: readonly StoredEvent[],
): HandledResponse {
  requireSameRequest(stored.requestHash, keyed);
  const isGone = stream.length === 0 && command.type !== 'PlaceOrder';
  if (customerId !== undefined && isGone) throw new OrderRejected('order_not_found', null);
  if (!('version' in stored)) {
    const { requestHash: _, ...response } = stored;
    return { ...response, replayed: true };
  }
  const order = foldOrder(stream.filter(({ version }) => version <= stored.version));
  if (order?.version !== stored.version) throw new StreamDamaged(stored.version);
  return { ...responseTo(command, order), replayed: true };
}

function responseTo(command: OrderCommand, order: Order): CommandResponse {
  return {
    status: 200,
    etag: versionETag(order.version),
    location: null,
    body: toJson(order),
    ...statusAfter(command, order),
  };
}

function statusAfter(command: OrderCommand, order: Order): Partial<CommandResponse> {
  const { type } = command;
  const path = `/v1/orders/${order.orderId}`;
  if (type === 'PlaceOrder') return { status: 201, location: path };
  if (type === 'FulfilOrder') return { status: 202, location: `${path}/fulfilment` };
  if (type === 'CancelOrder' && order.fulfilment === 'compensating') return { status: 202 };
  if (type === 'RefundOrder' && requestedRefund(order, command.refundId) !== undefined) {
    const location = `${path}/refunds/${encodeURIComponent(command.refundId)}`;
    return { status: 202, location };
  }
  return {};
}
