import { isDeepStrictEqual } from 'node:util';
import { Client } from 'pg';
// Makes pg read bigint as number, as in the service.
import '#src/database/database.ts';
import { orderShape, rowOf } from './api-shapes.ts';
import type { Order } from './api-shapes.ts';
import { foldOrder } from './order-fold.ts';
import type { FoldedOrder, StoredEvent } from './order-fold.ts';

/** Everything that a database stores about orders, read in one snapshot. */
export type Stored = Readonly<{
  events: StoredEvent[];
  streams: ReadonlyArray<{ stream_id: string; version: number }>;
  summaries: ReadonlyArray<Record<string, unknown>>;
  skus: ReadonlyArray<{ sku: string; placed_at: Date; order_id: string; customer_id: string }>;
  outbox: readonly OutboxRow[];
  responses: readonly ResponseRow[];
}>;
type OutboxRow = Readonly<{
  id: number;
  aggregate_type: string;
  aggregate_id: string;
  event_type: string;
  stream_version: number;
  message_key: string;
  ce_id: string;
  ce_time: string;
  ce_subject: string;
  ce_sequence: string;
  payload: string;
}>;
type ResponseRow = Readonly<{
  key: string;
  command_id: string;
  status: number;
  etag: string | null;
  location: string | null;
  body: string;
}>;

/** A relay deletes rows from the outbox, lowest version first. Without one, every event has its row. */
export type VerifyOptions = Readonly<{
  relay: 'on' | 'off';
  /** Whether some orders were placed by the release before, which writes no skus. Not by default. */
  hasEarlierOrders?: boolean;
}>;

/**
 * Checks that the tables agree: versions have no gaps, `streams` has the last versions, summaries and stored
 * responses equal a second implementation of the fold, and the outbox matches the events.
 * @returns one sentence for each violation
 */
export async function verifyDatabase(url: string, options: VerifyOptions): Promise<string[]> {
  return verifyStored(await readStored(url), options);
}

/** Reads in one snapshot, so a service may write meanwhile. */
export async function readStored(url: string): Promise<Stored> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query('begin isolation level repeatable read read only');
    return await readStoredBy(client);
  } finally {
    await client.end();
  }
}

/** Reads in the current transaction of the client. */
export async function readStoredBy(client: Client): Promise<Stored> {
  const read = async (sql: string) => (await client.query(sql)).rows;
  return {
    events: await read('select * from events order by position'),
    streams: await read('select * from streams'),
    summaries: await read('select * from orders_summary'),
    skus: await read('select * from order_skus'),
    outbox: await read('select * from outbox_events order by id'),
    responses: await read('select * from idempotency_keys'),
  };
}

export function verifyStored(
  stored: Stored,
  { relay, hasEarlierOrders = false }: VerifyOptions,
): string[] {
  const histories = historiesOf(stored.events);
  const orders = new Map<string, FoldedOrder>();
  const impossible: string[] = [];
  for (const [id, events] of histories) {
    try {
      orders.set(id, foldOrder(events));
    } catch (error) {
      impossible.push(`${id}: ${String(error)}`);
    }
  }
  return [
    ...[...histories.values()].flatMap(withinHistory),
    ...impossible,
    ...aboutStreams(stored.streams, histories),
    ...aboutSummaries(stored.summaries, orders, hasEarlierOrders),
    ...aboutSkus(stored, orders, hasEarlierOrders),
    ...aboutOutbox(stored.outbox, histories, relay),
    ...aboutResponses(stored.responses, histories),
  ];
}

export type Histories = ReadonlyMap<string, readonly StoredEvent[]>;

/** The events of each stream, in the order of their positions. */
export function historiesOf(events: readonly StoredEvent[]): Histories {
  return Map.groupBy(events, ({ stream_id }) => stream_id);
}

/** In the order of positions, versions are 1..n and time does not go back. */
function withinHistory(events: readonly StoredEvent[]): string[] {
  return events.flatMap((event, index) => {
    const before = events[index - 1];
    const wrong: string[] = [];
    if (event.version !== index + 1) wrong.push(`version ${event.version} at place ${index + 1}`);
    if (before && before.recorded_at > event.recorded_at) wrong.push('recorded before the last');
    return wrong.map((what) => `${event.stream_id}: ${what}`);
  });
}

function aboutStreams(streams: Stored['streams'], histories: Histories): string[] {
  const heads = new Map(streams.map(({ stream_id, version }) => [stream_id, version]));
  const ids = new Set([...heads.keys(), ...histories.keys()]);
  return [...ids].flatMap((id) => {
    const head = heads.get(id) ?? 'no row';
    const last = histories.get(id)?.at(-1)?.version ?? 'no event';
    return head === last ? [] : [`${id}: streams says ${head}, the events say ${last}`];
  });
}

/** Every order has its row, and every row is what the events of its order make. */
export function aboutSummaries(
  summaries: Stored['summaries'],
  orders: ReadonlyMap<string, FoldedOrder>,
  hasEarlierOrders = false,
): string[] {
  const missing = new Set(orders.keys());
  const wrong = summaries.flatMap((row) => {
    const summary = asShown(row);
    const id = String(summary['orderId']);
    missing.delete(id);
    const order = orders.get(id);
    const { skus, ...columns } = (order && columnsOf(order)) ?? {};
    const isEarlier = hasEarlierOrders && row['skus'] === null;
    const folded = order && { ...columns, ...(!isEarlier && { skus }) };
    if (isDeepStrictEqual(summary, folded)) return [];
    const fold = JSON.stringify(folded);
    return [`${id}: the summary is ${JSON.stringify(summary)}, the fold is ${fold}`];
  });
  return [...wrong, ...[...missing].map((id) => `${id}: no summary`)];
}

/** What of an order are columns. What it owes and whether it is paid is computed from the others. */
function columnsOf({ order, allowanceCents }: FoldedOrder) {
  const { owedCents: _, paymentStatus: _p, shipmentStatus, ...columns } = rowOf(order);
  const isTold = shipmentStatus === 'unshipped' || shipmentStatus === 'shipped';
  return {
    ...columns,
    allowanceCents,
    ...(!isTold && { shipmentProgress: shipmentStatus }),
    skus: JSON.stringify(skusOf(order)),
  };
}

/** Each once, in the order of the items. */
function skusOf({ items }: Order): string[] {
  return items.map(({ sku }) => sku).filter((sku, index, all) => all.indexOf(sku) === index);
}

/** Lists find an order by each of its skus. */
function aboutSkus(
  { skus: rows, summaries }: Stored,
  orders: ReadonlyMap<string, FoldedOrder>,
  hasEarlierOrders: boolean,
): string[] {
  const without = summaries.filter(({ skus }) => hasEarlierOrders && skus === null);
  const earlier = new Set(without.map((row) => row['order_id']));
  const expected = [...orders.values()].flatMap(({ order }) => {
    const { orderId, placedAt, customerId } = order;
    if (earlier.has(orderId)) return [];
    return skusOf(order).map((sku) => JSON.stringify([sku, placedAt, orderId, customerId]));
  });
  const found = rows.map((row) =>
    JSON.stringify([row.sku, row.placed_at.toISOString(), row.order_id, row.customer_id]),
  );
  const [missing, surplus] = [new Set(expected), new Set(found)];
  for (const row of found) missing.delete(row);
  for (const row of expected) surplus.delete(row);
  return [
    ...[...missing].map((row) => `order_skus lacks ${row}`),
    ...[...surplus].map((row) => `order_skus has ${row}`),
  ];
}

/** A row of the table with the field names of the API, without the fields that are null or no member of the API. */
function asShown(row: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(row).flatMap(([column, value]) => {
      if (value === null) return [];
      const name = column.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
      return [[name, value instanceof Date ? value.toISOString() : value]];
    }),
  );
}

function aboutOutbox(
  outbox: readonly OutboxRow[],
  histories: Histories,
  relay: VerifyOptions['relay'],
): string[] {
  const wrongRows = outbox.flatMap((row) => {
    const event = histories.get(row.aggregate_id)?.[row.stream_version - 1];
    if (event && isMessageOf(row, event)) return [];
    return [`outbox ${row.id}: ${JSON.stringify(row)} is not ${JSON.stringify(event)}`];
  });
  const waiting = Map.groupBy(outbox, (row) => row.aggregate_id);
  const wrongVersions = [...histories].flatMap(([id, events]) => {
    const versions = (waiting.get(id) ?? []).map((row) => row.stream_version);
    const first = relay === 'off' ? 1 : (versions[0] ?? events.length + 1);
    const expected = events.slice(first - 1).map(({ version }) => version);
    if (isDeepStrictEqual(versions, expected)) return [];
    return [`${id}: the outbox holds ${versions.join()}, not ${expected.join()}`];
  });
  return [...wrongRows, ...wrongVersions];
}

function isMessageOf(row: OutboxRow, event: StoredEvent): boolean {
  const payload: unknown = JSON.parse(row.payload);
  const expected = {
    ...Object(event.data),
    orderId: event.stream_id,
    version: event.version,
    recordedAt: event.recorded_at.toISOString(),
  };
  return (
    isDeepStrictEqual(payload, expected) &&
    row.aggregate_type === 'order' &&
    row.event_type === event.type &&
    row.message_key === event.stream_id &&
    row.ce_subject === event.stream_id &&
    row.ce_id === `${event.stream_id}-${event.version}` &&
    row.ce_time === event.recorded_at.toISOString() &&
    Number(row.ce_sequence) === event.version
  );
}

/** The order at a version. Undefined if there was no such version, or its history is impossible. */
export function orderAt(histories: Histories, orderId: string, version: number): Order | undefined {
  const history = histories.get(orderId)?.slice(0, version) ?? [];
  if (history.length !== version) return undefined;
  try {
    return foldOrder(history).order;
  } catch {
    return undefined;
  }
}

/** The status of a row that stores no response but the version from which it is built again. */
const REFERENCE_STATUS = 0;

/** A stored response is a 2xx and shows the order exactly as it was at the version of its ETag. */
function aboutResponses(responses: readonly ResponseRow[], histories: Histories): string[] {
  return responses.flatMap((row) => {
    const wrong = (what: string) => [`response ${row.key}: ${what}: ${JSON.stringify(row)}`];
    if (row.status === REFERENCE_STATUS) {
      return /^[1-9]\d*$/.test(row.body) ? [] : wrong('a reference to no version');
    }
    if (row.status < 200 || row.status > 299) return wrong('not a 2xx');
    const parsed = orderShape.safeParse(JSON.parse(row.body));
    if (!parsed.success) return wrong('not an order');
    const order = parsed.data;
    if (row.etag !== `"v${order.version}"`) return wrong('another ETag');
    const was = orderAt(histories, order.orderId, order.version);
    if (was === undefined) return wrong('its effect is not there');
    if (!isDeepStrictEqual(was, order)) return wrong(`the fold is ${JSON.stringify(was)}`);
    const isPlaced = row.status === 201;
    const location = isPlaced ? `/v1/orders/${order.orderId}` : null;
    return row.location === location ? [] : wrong('another Location');
  });
}
