import { randomUUID } from 'node:crypto';
import { orderOf, problemOf } from './api-shapes.ts';
import type { Order } from './api-shapes.ts';
import type { HttpResponse } from './http-client.ts';
import { placeBody } from './order-api.ts';
import type { CommandName, CommandOptions, OrderApi } from './order-api.ts';

export type Operation = CommandName | 'place' | 'read';

/** One request and what the client knows about it. */
export type Call = Readonly<{
  operation: Operation;
  /** Identifies the command. The data of its event contains it. Unset for a read. */
  token?: string;
  key?: string;
  /** Unset for a place without a response. */
  orderId?: string;
  invokedAt: number;
  completedAt: number;
  /** `ok`: a 2xx. `fail`: nothing was written. `info`: something may have been written, or may be yet. */
  outcome: 'ok' | 'fail' | 'info';
  isReplayed: boolean;
  response?: HttpResponse;
  order?: Order;
  /** The code of the problem, or the error of the connection. */
  reason?: string;
}>;

/** `more` are members of the body that take the place of the usual ones. */
export type RecordOptions = CommandOptions & Readonly<{ token?: string; more?: object }>;

/** Sends commands, each with a token of its own unless one is given, and records their outcomes. */
export type Recorder = Readonly<{
  calls: readonly Call[];
  place(api: OrderApi, options?: RecordOptions): Promise<Call>;
  send(api: OrderApi, name: CommandName, order: Order, options?: RecordOptions): Promise<Call>;
  read(api: OrderApi, orderId: string): Promise<Call>;
}>;

const MAYBE_WRITTEN = new Set(['outcome_unknown', 'internal']);

export function createRecorder(): Recorder {
  const calls: Call[] = [];
  const record = async (
    about: Pick<Call, 'operation' | 'token' | 'key' | 'orderId'>,
    request: Promise<HttpResponse>,
  ): Promise<Call> => {
    const invokedAt = performance.now();
    const seen = await request.then(seenOf, lost);
    const call = { ...about, invokedAt, completedAt: performance.now(), ...seen };
    calls.push(call);
    return call;
  };
  return {
    calls,
    place: (api, { token = randomUUID(), ...options } = {}) =>
      record(
        { operation: 'place', token, ...keyOf(options) },
        api.place({ ...placeBody, customerId: token }, options),
      ),
    send: (api, name, order, { token = randomUUID(), more, ...options } = {}) =>
      record(
        { operation: name, token, orderId: order.orderId, ...keyOf(options) },
        api.send(name, order.orderId, { ...bodyOf(name, token, order), ...more }, options),
      ),
    read: (api, orderId) =>
      record({ operation: 'read', orderId }, api.request('GET', `/v1/orders/${orderId}`)),
  };
}

/**
 * The order in the response to a call.
 * @throws an Error with the reason if the call was not acknowledged
 */
export function orderIn({ operation, order, reason }: Call): Order {
  if (order === undefined) throw new Error(`${operation} was not acknowledged: ${reason}`);
  return order;
}

function seenOf(response: HttpResponse): Omit<Call, 'operation' | 'invokedAt' | 'completedAt'> {
  const isReplayed = response.headers['idempotency-replayed'] === 'true';
  if (response.status < 400) {
    const order = orderOf(response);
    return { outcome: 'ok', isReplayed, response, order, orderId: order.orderId };
  }
  const { code, current } = problemOf(response);
  const outcome = MAYBE_WRITTEN.has(code) ? 'info' : 'fail';
  const reason = current ? `${code}, ${current.status} v${current.version}` : code;
  return { outcome, isReplayed, response, reason };
}

function lost(error: unknown): Omit<Call, 'operation' | 'invokedAt' | 'completedAt'> {
  const reason = String(error);
  // Nothing listened, so the request was not sent.
  const outcome = reason.includes('ECONNREFUSED') ? 'fail' : 'info';
  return { outcome, isReplayed: false, reason };
}

function keyOf({ key }: CommandOptions): Pick<Call, 'key'> {
  return key === undefined ? {} : { key };
}

function bodyOf(name: CommandName, token: string, { totalCents, items }: Order): object {
  switch (name) {
    case 'pay':
      return { paymentId: token, amountCents: totalCents };
    case 'ship':
      return { trackingNumber: token, carrier: 'post' };
    case 'deliver':
      return { trackingNumber: token };
    case 'return': {
      const pieces = items.map(({ lineId }) => ({ lineId, quantity: 1 }));
      return { returnId: token, items: pieces, reason: 'torn', restock: true };
    }
    case 'cancel':
      return { reason: token };
    case 'refund':
      return { refundId: token, amountCents: totalCents };
  }
}
