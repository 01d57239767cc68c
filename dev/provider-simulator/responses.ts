import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { ContractResponse } from './contract.ts';
import type { ResponseKind } from './faults.ts';

const HUGE_BYTES = 1024 * 1024;
const HTML = '<!doctype html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1>';

/** Half of an amount, as in a partial capture. It is never the amount itself. */
export function otherAmount(amountCents: unknown): number {
  return typeof amountCents === 'number' && amountCents > 0 ? Math.floor(amountCents / 2) : 1;
}

/** The currency code for tests, or the code for no currency. */
export function otherCurrency(currency: unknown): string {
  return currency === 'XTS' ? 'XXX' : 'XTS';
}

const PARCEL_1 = { trackingNumber: 'SIM0', carrier: 'Simulated Post', items: lines('1') };
/** A parcel with a line that no order has. */
const OTHER_LINE = { ...PARCEL_1, items: lines('none') };

function lines(lineId: string) {
  return [{ lineId, quantity: 1 }];
}

/** The body with other parcels, if it states any. */
function withParcels(body: ContractResponse['body'], parcels: readonly unknown[]) {
  return 'parcels' in body ? { ...body, parcels } : body;
}

/** A response, and the way in which it is spoilt. */
type SpoiltResponse = Readonly<{
  kind: ResponseKind;
  key: string;
  /** The honest response. Unset if nothing was done. */
  right: ContractResponse | undefined;
  retryAfterSeconds: number;
}>;

/** Responses to send a second time, by connection. */
const duplicates = new WeakMap<Socket, string>();

/** Sends the previous response on the connection again, if its fault was `duplicate`. */
export function sendDuplicate(socket: Socket): void {
  const duplicate = duplicates.get(socket);
  duplicates.delete(socket);
  if (duplicate !== undefined) socket.write(duplicate);
}

export function sendSpoilt(response: ServerResponse, spoilt: SpoiltResponse): void {
  const { kind, key, right = { status: 500, body: { code: 'nothing_done', key } } } = spoilt;
  const { status, body } = right;
  const retry = { 'retry-after': String(spoilt.retryAfterSeconds) };
  const notApplied = (code: string) => ({ outcome: 'not_applied', code, key });
  switch (kind) {
    case 'right':
      return sendJson(response, status, body);
    case 'none':
      return undefined;
    case 'reset':
      return void response.socket?.resetAndDestroy();
    case 'error':
      return sendJson(response, 500, { code: 'internal_error', key });
    case 'too_many':
      return sendJson(response, 429, notApplied('too_many_requests'), retry);
    case 'unavailable':
      return sendJson(response, 503, notApplied('unavailable'), retry);
    case 'overloaded':
      return sendText(response, 503, 'text/plain', 'no server is available', retry);
    case 'garbage':
      return sendText(response, 200, 'application/json', `\0\u{fffd}{"key":"${key}",`);
    case 'wrong_shape':
      return sendJson(response, 200, { key, status: 'success' });
    case 'html':
      return sendText(response, 200, 'text/html', HTML);
    case 'empty':
      return sendText(response, 200, 'application/json', '');
    case 'huge':
      return sendJson(response, status, { ...body, padding: 'x'.repeat(HUGE_BYTES) });
    case 'cut_short':
      return sendCutShort(response, right);
    case 'redirect':
      return sendText(response, 307, 'text/plain', '', { location: '/redirected' });
    case 'duplicate':
      return sendTwice(response, right);
    case 'other_key':
      return sendJson(response, status, { ...body, key: `${key}-other` });
    case 'misstated_amount':
      return sendJson(response, status, { ...body, amountCents: otherAmount(body['amountCents']) });
    case 'misstated_currency':
      return sendJson(response, status, { ...body, currency: otherCurrency(body['currency']) });
    case 'misstated_parcels':
      return sendJson(response, status, withParcels(body, [OTHER_LINE]));
    case 'repeated_parcel':
      return sendJson(response, status, withParcels(body, [PARCEL_1, PARCEL_1]));
  }
}

export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  sendText(response, status, 'application/json', JSON.stringify(body), headers);
}

function sendText(
  response: ServerResponse,
  status: number,
  type: string,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, { ...headers, 'content-type': type }).end(text);
}

/** Announces one byte more than it sends. */
function sendCutShort(response: ServerResponse, { status, body }: ContractResponse): void {
  const text = JSON.stringify(body);
  response.writeHead(status, { 'content-length': Buffer.byteLength(text) + 1 });
  response.write(text, () => response.destroy());
}

/** The second time comes as if it were the response to the next call, where it does most harm. */
function sendTwice(response: ServerResponse, { status, body }: ContractResponse): void {
  const text = JSON.stringify(body);
  const head = `HTTP/1.1 ${status} Again\r\ncontent-type: application/json`;
  const again = `${head}\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
  if (response.socket) duplicates.set(response.socket, again);
  sendJson(response, status, body);
}
