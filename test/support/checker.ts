import { isDeepStrictEqual } from 'node:util';
import type { ReadMessage } from './kafka.ts';
import type { StoredEvent } from './order-fold.ts';
import type { Call } from './recorder.ts';
import { historiesOf, orderAt, readStored, verifyStored } from './verify-database.ts';
import type { Histories, Stored, VerifyOptions } from './verify-database.ts';

/**
 * Compares what clients saw with what is stored, after the load has ended:
 * - an acknowledged command is stored, with the content that its response showed;
 * - a command takes effect at most once, a rejected command never, and no event comes from nowhere;
 * - one key has one response;
 * - a read that starts after a response sees at least the version in it.
 * Outcomes are ok, fail and info, as in Jepsen's histories.
 *
 * @returns each violation with the calls and events of its order, and the findings of `verifyDatabase`
 */
export async function checkHistory(
  calls: readonly Call[],
  databaseUrl: string,
  options: VerifyOptions,
): Promise<string[]> {
  const stored = await readStored(databaseUrl);
  return [...verifyStored(stored, options), ...historyViolations(calls, stored)];
}

/** @see checkHistory */
export function historyViolations(calls: readonly Call[], stored: Stored): string[] {
  const histories = historiesOf(stored.events);
  const effects = Map.groupBy(stored.events, tokenOf);
  const commands = Map.groupBy(
    calls.filter(({ token }) => token !== undefined),
    ({ token }) => token ?? '',
  );
  const found = [
    ...[...effects].flatMap(([token, events]) => aboutEffects(token, events, commands.get(token))),
    ...calls.flatMap((call) => aboutResponse(call, effects.get(call.token ?? '')?.[0], histories)),
    ...[...Map.groupBy(calls, ({ key }) => key)].flatMap(([key, same]) => aboutKey(key, same)),
    ...[...Map.groupBy(calls, ({ orderId }) => orderId)].flatMap(([id, own]) => backwards(id, own)),
  ];
  return found.map(({ orderId, what }) => `${what}\n${toldOf(orderId, calls, histories)}`);
}

type Violation = Readonly<{ orderId: string | undefined; what: string }>;

/** The field of an event's data that contains the token of its command. */
const TOKEN_FIELDS: Readonly<Record<string, string>> = {
  OrderPlaced: 'customerId',
  PaymentCaptured: 'paymentId',
  OrderShipped: 'trackingNumber',
  ParcelShipped: 'trackingNumber',
  ParcelDelivered: 'trackingNumber',
  ItemsReturned: 'returnId',
  OrderCancelled: 'reason',
  PaymentRefunded: 'refundId',
};

/** The parcel that was delivered has the tracking number with which it was shipped. */
function tokenOf({ type, data }: StoredEvent): string {
  const token = String(Reflect.get(Object(data), TOKEN_FIELDS[type] ?? ''));
  return type === 'ParcelDelivered' ? deliveryOf(token) : token;
}

/** The token of the command that reports that a parcel was delivered. */
export function deliveryOf(trackingNumber: string): string {
  return `${trackingNumber} delivered`;
}

function aboutEffects(
  token: string,
  events: readonly StoredEvent[],
  calls: readonly Call[] = [],
): Violation[] {
  const orderId = events[0]?.stream_id;
  if (calls.length === 0) return [{ orderId, what: `nobody sent ${token}` }];
  if (events.length > 1) return [{ orderId, what: `${token} took effect ${events.length} times` }];
  if (calls.some(({ outcome }) => outcome !== 'fail')) return [];
  return [{ orderId, what: `${token} took effect, though it was turned away` }];
}

function aboutResponse(
  { outcome, operation, token, order }: Call,
  effect: StoredEvent | undefined,
  histories: Histories,
): Violation[] {
  if (outcome !== 'ok' || order === undefined) return [];
  const { orderId } = order;
  const was = orderAt(histories, orderId, order.version);
  if (!isDeepStrictEqual(was, order)) {
    const got = `${operation} got ${JSON.stringify(order)}`;
    return [{ orderId, what: `${got}, stored is ${JSON.stringify(was)}` }];
  }
  if (operation === 'read') return [];
  if (effect) {
    const isIn = effect.stream_id === orderId && effect.version <= order.version;
    return isIn ? [] : [{ orderId, what: `${token} is not in the order of its response` }];
  }
  // A second cancellation is a duplicate of the first, whatever its reason.
  if (operation === 'cancel' && order.status === 'cancelled') return [];
  return [{ orderId, what: `${operation} ${token} was acknowledged, and is lost` }];
}

function aboutKey(key: string | undefined, calls: readonly Call[]): Violation[] {
  if (key === undefined) return [];
  const [first, ...others] = calls.filter(({ outcome }) => outcome === 'ok');
  return others
    .filter(({ response }) => response?.text !== first?.response?.text)
    .map(({ orderId }) => ({ orderId, what: `the key ${key} has two responses` }));
}

/** Checks in real time that no call sees an older version of an order than a call that ended before it. */
function backwards(orderId: string | undefined, calls: readonly Call[]): Violation[] {
  const seen = calls.filter(({ order, isReplayed }) => order && !isReplayed);
  const byEnd = seen.toSorted((a, b) => a.completedAt - b.completedAt);
  const byStart = seen.toSorted((a, b) => a.invokedAt - b.invokedAt);
  const violations: Violation[] = [];
  let ended = 0;
  let newest = 0;
  for (const { invokedAt, operation, order } of byStart) {
    for (; (byEnd[ended]?.completedAt ?? Infinity) < invokedAt; ended += 1) {
      newest = Math.max(newest, byEnd[ended]?.order?.version ?? 0);
    }
    const version = order?.version ?? 0;
    if (version < newest) {
      violations.push({ orderId, what: `${operation} saw v${version} after v${newest} was seen` });
    }
  }
  return violations;
}

/**
 * Compares all messages of a topic with the events. Every event has a message, and there is no other. The
 * messages of an order are in one partition, first occurrences are in version order, and duplicates are equal.
 */
export function topicViolations(
  messages: readonly ReadMessage[],
  events: readonly StoredEvent[],
): string[] {
  const histories = historiesOf(events);
  const byKey = Map.groupBy(messages, ({ key }) => key ?? '');
  const unknown = [...byKey.keys()].filter((key) => !histories.has(key));
  return [
    ...unknown.map((key) => `${key}: a message of no order`),
    ...[...histories].flatMap(([id, own]) =>
      aboutMessages(byKey.get(id) ?? [], own).map((what) => `${id}: ${what}`),
    ),
  ];
}

function aboutMessages(messages: readonly ReadMessage[], events: readonly StoredEvent[]): string[] {
  const violations: string[] = [];
  const firsts = new Map<string, ReadMessage>();
  for (const message of messages) {
    const id = message.headers['ce_id'] ?? '';
    const first = firsts.get(id);
    if (!first) firsts.set(id, message);
    else if (!isDeepStrictEqual({ ...first, offset: 0 }, { ...message, offset: 0 })) {
      violations.push(`${id} was sent again and differs`);
    }
  }
  if (new Set(messages.map(({ partition }) => partition)).size > 1) {
    violations.push('in several partitions');
  }
  const versions = [...firsts.values()].map(({ headers }) => Number(headers['ce_sequence']));
  const expected = events.map(({ version }) => version);
  if (!isDeepStrictEqual(versions, expected)) {
    violations.push(`the topic holds ${versions.join()}, the events are ${expected.join()}`);
  }
  return violations;
}

/** All calls and events of one order, so that a failure can be understood without the database. */
function toldOf(orderId: string | undefined, calls: readonly Call[], histories: Histories): string {
  const own = calls.filter(
    (call) =>
      call.orderId !== undefined &&
      call.orderId === orderId &&
      !call.reason?.includes('ECONNREFUSED'),
  );
  const lines = own
    .toSorted((a, b) => a.invokedAt - b.invokedAt)
    .map(({ operation, token, key, invokedAt, completedAt, outcome, order, reason }) => {
      const time = `${invokedAt.toFixed(1)}..${completedAt.toFixed(1)}`;
      const end = order ? `${order.status} v${order.version}` : reason;
      return `  call ${time} ${operation} ${token ?? ''} key ${key ?? '-'}: ${outcome} ${end}`;
    });
  const events = (histories.get(orderId ?? '') ?? []).map(
    ({ version, type, data }) => `  event v${version} ${type} ${JSON.stringify(data)}`,
  );
  return [`  order ${orderId}`, ...lines, ...events].join('\n');
}
