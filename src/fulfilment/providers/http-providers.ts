import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type {
  CancelOutcome,
  LookUpOutcome,
  SendOutcome,
  UnknownOutcome,
} from '#src/sagas/saga-call.ts';
import { createProviderClient } from './provider-client.ts';
import type { ProviderConnection, ProviderResponse } from './provider-client.ts';
import { capture, refund, shipment, text } from './providers.ts';
import type {
  Capture,
  CaptureRequest,
  KeyOfShipment,
  PaymentProvider,
  Refund,
  RefundRequest,
  Shipment,
  ShipmentRequest,
  ShippingProvider,
} from './providers.ts';

/** `refused` and `not_applied` in a body count only with one of these statuses. */
const REFUSED_STATUSES = new Set([402, 409, 422]);
const NOT_APPLIED_STATUSES = new Set([400, 401, 403, 413, 429, 503]);

const keyed = z.object({ key: z.string() });
const coded = z.object({ code: z.string().regex(/^[a-z0-9_]{1,64}$/) });
const statement = coded.extend({ outcome: z.enum(['refused', 'not_applied', 'absent']) });
const cancelled = z.object({ outcome: z.literal('cancelled') });

/** The versions of the HTTP contract in docs/providers.md. A provider speaks the one that it is asked in. */
export type ContractVersion = 1 | 2;

/** Payments over the HTTP contract in docs/providers.md. */
export function createHttpPaymentProvider(
  connection: ProviderConnection,
  version: ContractVersion = 2,
): PaymentProvider {
  const resource = createResources(connection, version);
  const captures = resource('/payments/captures');
  const refunds = resource('/payments/refunds');
  return {
    capture: (request, signal) =>
      captures.create(
        version === 1 ? withoutMethod(request) : request,
        expectedCapture(request),
        signal,
      ),
    lookUpCapture: (request, signal) => captures.lookUp(expectedCapture(request), signal),
    cancelCapture: ({ key, orderId }, signal) =>
      captures.cancel(orderId, { key, result: capture }, signal),
    refund: (request, signal) => refunds.create(request, expectedRefund(request), signal),
    lookUpRefund: (request, signal) => refunds.lookUp(expectedRefund(request), signal),
  };
}

/** Shipping over the HTTP contract in docs/providers.md. */
export function createHttpShippingProvider(
  connection: ProviderConnection,
  version: ContractVersion = 2,
): ShippingProvider {
  const shipments = createResources(connection, version)('/shipping/shipments');
  const expected = (request: KeyOfShipment) => expectedShipment(request, version);
  return {
    ship: (request, signal) =>
      shipments.create(
        version === 1 ? withoutDetails(request) : request,
        expected(request),
        signal,
      ),
    lookUpShipment: (request, signal) => shipments.lookUp(expected(request), signal),
    cancelShipment: (request, signal) =>
      shipments.cancel(request.orderId, expected(request), signal),
  };
}

/** What version 1 of the contract knows of a capture. */
function withoutMethod({ key, orderId, amountCents, currency }: CaptureRequest) {
  return { key, orderId, amountCents, currency };
}

/** What version 1 of the contract knows of a shipment. */
function withoutDetails({ key, orderId, items }: ShipmentRequest) {
  return { key, orderId, items: items.map(({ sku, quantity }) => ({ sku, quantity })) };
}

/** The contract's resources: each is created, looked up and closed by its key. */
function createResources(connection: ProviderConnection, version: ContractVersion) {
  const send = createProviderClient(connection);
  return (resource: string) => {
    const path = version === 1 ? resource : `/v${version}${resource}`;
    const at = (key: string) => `${path}/${encodeURIComponent(key)}`;
    return {
      create: async <Result>(
        { key, ...body }: Readonly<{ key: string; [field: string]: unknown }>,
        expected: Expected<Result>,
        signal?: AbortSignal,
      ) => callOutcome(await send({ method: 'POST', path, key, body, signal }), expected),
      lookUp: async <Result>(expected: Expected<Result>, signal?: AbortSignal) => {
        const { key } = expected;
        return lookUpOutcome(await send({ method: 'GET', path: at(key), key, signal }), expected);
      },
      cancel: async <Result>(orderId: string, expected: Expected<Result>, signal?: AbortSignal) => {
        const { key } = expected;
        const path = `${at(key)}/cancel`;
        const response = await send({ method: 'POST', path, key, body: { orderId }, signal });
        return cancelOutcome(response, expected);
      },
    };
  };
}

function expectedCapture(request: CaptureRequest): Expected<Capture> {
  const difference = (stated: Capture) => moneyDifference(stated, request);
  return { key: request.key, result: capture, difference };
}

function expectedRefund(request: RefundRequest): Expected<Refund> {
  return {
    key: request.key,
    result: refund,
    difference: (stated) =>
      stated.paymentId === request.paymentId
        ? moneyDifference(stated, request)
        : 'the provider states another payment than was asked for',
  };
}

type Money = Readonly<{ amountCents: number; currency: string }>;

function moneyDifference(stated: Money, asked: Money): string | undefined {
  const text = ({ amountCents, currency }: Money) => `${amountCents} ${currency}`;
  if (text(stated) === text(asked)) return undefined;
  return `the provider states ${text(stated)} where ${text(asked)} was asked for`;
}

/** In version 1 of the contract everything is in one parcel. */
const shipmentOfVersion1 = z
  .object({ trackingNumber: text, carrier: text })
  .transform((parcel): Shipment => ({ parcels: [parcel] }));

function expectedShipment(
  { key, items = [] }: KeyOfShipment,
  version: ContractVersion,
): Expected<Shipment> {
  if (version === 1) return { key, result: shipmentOfVersion1 };
  const asked = quantitiesByLine(items);
  return {
    key,
    result: shipment,
    difference: ({ parcels }) => {
      const [{ items: stated } = {}] = parcels;
      if (parcels.length === 1 && stated === undefined) return undefined;
      return isDeepStrictEqual(quantitiesByLine(parcels.flatMap(({ items }) => items ?? [])), asked)
        ? undefined
        : 'the provider states parcels with other lines or quantities than were asked for';
    },
  };
}

type Lines = readonly Readonly<{ lineId?: string; quantity: number }>[];

function quantitiesByLine(lines: Lines): ReadonlyMap<string | undefined, number> {
  const byLine = new Map<string | undefined, number>();
  for (const { lineId, quantity } of lines) {
    byLine.set(lineId, (byLine.get(lineId) ?? 0) + quantity);
  }
  return byLine;
}

/** What the response to one request must look like. */
export type Expected<Result> = Readonly<{
  key: string;
  result: z.ZodType<Result>;
  /** How a well-formed result differs from the request, if it does. */
  difference?: (result: Result) => string | undefined;
}>;

type ReadResponse = Extract<ProviderResponse, { kind: 'response' }>;

/** Reads the response to a call that has an effect. */
export function callOutcome<Result>(
  response: ProviderResponse,
  expected: Expected<Result>,
): SendOutcome<Result> {
  if (response.kind === 'not_sent') return { outcome: 'not_applied', reason: response.reason };
  if (response.kind === 'lost') return unknown(response, response.reason);
  if (!isForKey(response, expected)) return unknown(response, otherKey(response));
  if (isDone(response)) return readResult(response, expected, 'ok');
  const stated = statement.safeParse(response.body).data;
  if (stated?.outcome === 'refused' && REFUSED_STATUSES.has(response.status))
    return { outcome: 'refused', reason: stated.code };
  if (stated?.outcome === 'not_applied' && NOT_APPLIED_STATUSES.has(response.status))
    return { outcome: 'not_applied', reason: stated.code, ...retryAfter(response) };
  return unknown(response, statesNoOutcome(response));
}

/** Reads the response to a look-up. A key is absent only if the provider says so explicitly. */
export function lookUpOutcome<Result>(
  response: ProviderResponse,
  expected: Expected<Result>,
): LookUpOutcome<Result> {
  if (response.kind !== 'response') return unknown(response, response.reason);
  if (!isForKey(response, expected)) return unknown(response, otherKey(response));
  if (response.status === 200) return readResult(response, expected, 'found');
  if (response.status === 404 && statement.safeParse(response.body).data?.outcome === 'absent')
    return { outcome: 'absent' };
  return unknown(response, statesNoOutcome(response));
}

/** Reads the response to a cancel by key. Without a `difference`, a result is taken as stated, and so undone. */
export function cancelOutcome<Result>(
  response: ProviderResponse,
  expected: Expected<Result>,
): CancelOutcome<Result> {
  if (response.kind !== 'response') return unknown(response, response.reason);
  if (!isForKey(response, expected)) return unknown(response, otherKey(response));
  if (response.status !== 200) return unknown(response, statesNoOutcome(response));
  if (cancelled.safeParse(response.body).success) return { outcome: 'cancelled' };
  const done = z.object({ outcome: z.literal('already_done'), result: expected.result });
  const { data } = done.safeParse(response.body);
  return checked(response, data?.result, expected, 'already_done');
}

function readResult<Result, Outcome extends 'ok' | 'found'>(
  response: ReadResponse,
  expected: Expected<Result>,
  outcome: Outcome,
) {
  return checked(response, expected.result.safeParse(response.body).data, expected, outcome);
}

/** A result that is well formed counts only if it agrees with the request. */
function checked<Result, Outcome extends 'ok' | 'found' | 'already_done'>(
  response: ReadResponse,
  result: Result | undefined,
  { difference }: Expected<Result>,
  outcome: Outcome,
): Readonly<{ outcome: Outcome; result: Result }> | UnknownOutcome<Result> {
  if (result === undefined)
    return unknown(response, `response ${response.status} does not match the contract`);
  const differs = difference?.(result);
  if (differs !== undefined) return { ...unknown(response, differs), stated: result };
  return { outcome, result };
}

const isDone = ({ status }: ReadResponse) => status === 200 || status === 201;

/** A connection can carry a stray response: one that does not name our key belongs to another request. */
const isForKey = (response: ReadResponse, { key }: { key: string }) =>
  keyed.safeParse(response.body).data?.key === key;

const otherKey = ({ status }: ReadResponse) => `response ${status} does not name the key`;

function statesNoOutcome({ status, body }: ReadResponse): string {
  const { data } = coded.safeParse(body);
  return `response ${status}${data ? ` ${data.code}` : ''} states no outcome`;
}

const retryAfter = (response: ProviderResponse) =>
  'retryAfterMs' in response ? { retryAfterMs: response.retryAfterMs } : {};

function unknown(response: ProviderResponse, reason: string): UnknownOutcome<never> {
  return { outcome: 'unknown', reason, ...retryAfter(response) };
}
