import type { Principal } from '#src/auth/principal.ts';
import type { ReadPool } from '#src/database/database.ts';
import type { EventStore, ReadFilter, StoredEvent } from '#src/event-store/event-store.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { Problem } from '#src/http/problem.ts';
import { ORDER_CATEGORY } from './domain/order-events.ts';
import type { FulfilmentState, Order } from './domain/order.ts';
import { orderProblemKind } from './order-problems.ts';
import { foldOrder } from './order-stream.ts';
import type { PersonalData } from './personal-data.ts';
import { readShownPersonalData } from './personal-data-store.ts';
import type { ShownPersonalData } from './personal-data-store.ts';

export type OrderReadDependencies = Readonly<{
  eventStore: EventStore;
  reads: ReadPool;
  /** How far the sagas of these orders are, for those that have one. */
  fulfilmentStates: (orderIds: readonly string[]) => Promise<ReadonlyMap<string, FulfilmentState>>;
}>;

/** Up to when to read, and whose order it must be. */
type Until = Omit<ReadFilter, 'category'>;

/** An order as one principal sees it. */
export type OrderRead = Readonly<{
  order: Order;
  /** Only what the principal may read. */
  personalData: Pick<PersonalData, 'shippingAddress' | 'contact'>;
  etag: string;
}>;

/**
 * Reads an order as it was earlier, without personal data: only that of now is kept.
 * @throws Problem `order_not_found` or `order_version_not_found`
 */
export async function readOrderThen(
  eventStore: EventStore,
  orderId: string,
  until: Until,
): Promise<OrderRead> {
  const order = await readOrder(eventStore, orderId, until);
  return { order, personalData: {}, etag: versionETag(order.version) };
}

async function readOrder(eventStore: EventStore, orderId: string, until: Until): Promise<Order> {
  const order = foldOrder(await readEvents(eventStore, orderId, until));
  const reached = until.version === undefined || order?.version === until.version;
  if (order && reached) return order;
  const first = { version: 1, customerId: until.customerId };
  const isKnown = order ?? (await readEvents(eventStore, orderId, first)).length > 0;
  throw new Problem(orderProblemKind(isKnown ? 'order_version_not_found' : 'order_not_found'));
}

/** The events of an order; none if it is not the customer's. */
export function readEvents(
  eventStore: EventStore,
  orderId: string,
  until: Until,
): Promise<StoredEvent[]> {
  return eventStore.readStream(orderId, { ...until, category: ORDER_CATEGORY });
}

/**
 * Reads an order with the personal data that the principal may read, both as they were at one version. With personal
 * data, the ETag is another one than without.
 * @throws Problem `order_not_found`
 */
export async function readOrderNow(
  { eventStore, reads, fulfilmentStates }: OrderReadDependencies,
  orderId: string,
  principal: Principal,
): Promise<OrderRead> {
  const { customerId } = principal;
  const read = await readOrder(eventStore, orderId, { customerId });
  const shown = await readShown(reads, read, principal);
  // Events never change, so the order can be read at the version of the personal data.
  const order =
    shown === undefined || shown.version === read.version
      ? read
      : await readOrder(eventStore, orderId, { customerId, version: shown.version });
  const news = await sagaNews(order, fulfilmentStates);
  const personalData = shown?.data ?? {};
  const hasPersonalData = Object.keys(personalData).length > 0;
  return {
    order: news ? { ...order, fulfilment: news } : order,
    personalData,
    etag: versionETag(order.version, news, hasPersonalData ? 'personal' : undefined),
  };
}

/** The personal data of the order, if it has any and the principal may read it. */
async function readShown(
  reads: ReadPool,
  { orderId, hasShippingAddress, hasContact }: Order,
  { customerId, scopes }: Principal,
): Promise<ShownPersonalData | undefined> {
  const isEntitled = customerId !== undefined || scopes.has('personal-data:read');
  if (!isEntitled || !(hasShippingAddress || hasContact)) return undefined;
  return readShownPersonalData(reads, orderId, customerId);
}

/** What only the saga knows, while it is alive: that it is stuck, or on its way back. */
async function sagaNews(
  { orderId, fulfilment }: Order,
  fulfilmentStates: OrderReadDependencies['fulfilmentStates'],
): Promise<FulfilmentState | undefined> {
  if (fulfilment !== 'running' && fulfilment !== 'compensating') return undefined;
  const state = (await fulfilmentStates([orderId])).get(orderId);
  const isNews = (state === 'stuck' || state === 'compensating') && state !== fulfilment;
  return isNews ? state : undefined;
}
