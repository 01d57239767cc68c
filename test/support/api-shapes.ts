import { z } from 'zod';
import type { HttpResponse } from './http-client.ts';

/*
 * What the interface promises of its responses, stated once more and strictly: a field that is missing,
 * misnamed, null or one too many fails every test that reads the response.
 */

const cents = z.int().min(0).max(Number.MAX_SAFE_INTEGER);
const instant = z.iso.datetime({ precision: 3 });
const status = z.enum(['pending', 'paid', 'shipped', 'cancelled']);
const paymentStatus = z.enum(['unpaid', 'paid', 'partially_refunded', 'refunded']);
const shipmentStatus = z.enum([
  'unshipped',
  'partially_shipped',
  'shipped',
  'delivered',
  'returned',
]);
const item = z.strictObject({
  lineId: z.string(),
  sku: z.string(),
  name: z.string().optional(),
  quantity: z.int().min(1),
  priceCents: cents,
  shippedQuantity: z.int().min(0),
  returnedQuantity: z.int().min(0),
});
const parts = z.array(z.strictObject({ lineId: z.string(), quantity: z.int().min(1) }));

const summaryFields = {
  orderId: z.uuid({ version: 'v7' }),
  customerId: z.string(),
  externalReference: z.string().optional(),
  status,
  paymentStatus,
  shipmentStatus,
  currency: z.string().length(3),
  itemCount: z.int().min(1),
  totalCents: cents,
  version: z.int().min(1),
  placedAt: instant,
  paidAt: instant.optional(),
  shippedAt: instant.optional(),
  trackingNumber: z.string().optional(),
  cancelledAt: instant.optional(),
  capturedCents: cents,
  refundedCents: cents,
  owedCents: cents,
};

export const summaryShape = z.strictObject(summaryFields);
export const orderShape = z.strictObject({
  ...summaryFields,
  items: z.array(item).min(1),
  shippingCents: cents,
  taxCents: cents,
  discountCents: cents,
  metadata: z.record(z.string(), z.string()).optional(),
  payments: z.array(
    z.strictObject({
      paymentId: z.string(),
      amountCents: cents,
      source: z.enum(['reported', 'fulfilment']),
      capturedAt: instant,
    }),
  ),
  refunds: z.array(
    z.strictObject({
      refundId: z.string(),
      amountCents: cents,
      paymentId: z.string(),
      state: z.enum(['requested', 'refunded', 'failed']),
      reason: z.string().optional(),
      returnId: z.string().optional(),
      sagaId: z.string().optional(),
      requestedAt: instant.optional(),
      refundedAt: instant.optional(),
      failedAt: instant.optional(),
      failure: z.string().optional(),
    }),
  ),
  parcels: z.array(
    z.strictObject({
      trackingNumber: z.string(),
      carrier: z.string(),
      items: parts,
      shippedAt: instant,
      deliveredAt: instant.optional(),
    }),
  ),
  returns: z.array(
    z.strictObject({
      returnId: z.string(),
      items: parts,
      reason: z.string(),
      restock: z.boolean(),
      returnedAt: instant,
    }),
  ),
  personalDataErasedAt: instant.optional(),
  paymentId: z.string().optional(),
  carrier: z.string().optional(),
  reason: z.string().optional(),
  refundAmountCents: cents.optional(),
});
export const pageShape = z.strictObject({
  data: z.array(summaryShape),
  nextCursor: z.string().nullable(),
});
export const historyShape = z.strictObject({
  data: z.array(
    z.strictObject({
      version: z.int().min(1),
      position: z.int().min(1),
      type: z.string(),
      schemaVersion: z.int().min(1),
      data: z.record(z.string(), z.unknown()),
      metadata: z.record(z.string(), z.unknown()),
      recordedAt: instant,
    }),
  ),
});
export const problemShape = z.strictObject({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string().regex(/^[a-z]+(_[a-z]+)*$/),
  requestId: z.string().min(1),
  errors: z.array(z.strictObject({ pointer: z.string(), message: z.string() })).optional(),
  current: z
    .strictObject({ status, version: z.int().min(1), allowed: z.array(z.string()) })
    .optional(),
  /** Of a command that asks for more than there is: what is left, by line or in money. */
  lines: z.array(z.strictObject({ lineId: z.string(), left: z.int().min(0) })).optional(),
  refundableCents: cents.optional(),
  /** Of a place whose outcome is unknown, and of one whose reference an earlier order has. */
  orderId: z.uuid().optional(),
});

export type Order = z.infer<typeof orderShape>;
export type OrderRow = z.infer<typeof summaryShape>;
export type History = z.infer<typeof historyShape>;
export type ApiProblem = z.infer<typeof problemShape>;

/** The part of an order that lists show. */
export function rowOf(order: Order): OrderRow {
  return z.object(summaryFields).parse(order);
}

/** The order of a 2xx response. */
export function orderOf(response: HttpResponse): Order {
  return bodyOf(response, orderShape, (status) => status >= 200 && status < 300);
}

export function pageOf(response: HttpResponse): z.infer<typeof pageShape> {
  return bodyOf(response, pageShape, (status) => status === 200);
}

export function historyOf(response: HttpResponse): History {
  return bodyOf(response, historyShape, (status) => status === 200);
}

/** The problem of a 4xx or 5xx response: its media type, its status, a requestId that the header repeats. */
export function problemOf(response: HttpResponse): ApiProblem {
  const problem = bodyOf(response, problemShape, (status) => status >= 400);
  const type = response.headers['content-type'] ?? '';
  if (!type.startsWith('application/problem+json')) throw unlike(response, `it is ${type}`);
  if (problem.status !== response.status)
    throw unlike(response, 'its status is not that of its body');
  // Bytes that are not HTTP get their response before there is a request that could have an id.
  const { 'x-request-id': requestId = problem.requestId } = response.headers;
  const isNoRequest = problem.code === 'malformed_request' || problem.code === 'headers_too_large';
  if (!isNoRequest && requestId !== problem.requestId) throw unlike(response, 'another requestId');
  return problem;
}

function bodyOf<T>(
  response: HttpResponse,
  shape: z.ZodType<T>,
  isExpected: (status: number) => boolean,
): T {
  if (!isExpected(response.status)) throw unlike(response, 'unexpected status');
  const parsed = shape.safeParse(JSON.parse(response.text));
  if (!parsed.success) throw unlike(response, z.prettifyError(parsed.error));
  return parsed.data;
}

function unlike({ status, text }: HttpResponse, reason: string): Error {
  return new Error(`a response not as promised: ${reason}\n${status} ${text.slice(0, 2_000)}`);
}
