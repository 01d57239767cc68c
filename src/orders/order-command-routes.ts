import { v7 as uuidv7 } from 'uuid';
import { guardedHeaders, keyedHeaders } from '#src/http/request-head.ts';
import { route } from '#src/http/route.ts';
import type { AnswerSpec, DescribedHeader, Route } from '#src/http/route.ts';
import type { RejectionCode } from './domain/order-commands.ts';
import { orderProblemKinds, refusalKind } from './order-problems.ts';
import {
  cancelOrderBody,
  orderResponse,
  orderParams,
  payOrderBody,
  placeOrderBody,
  refundOrderBody,
  shipOrderBody,
} from './order-schemas.ts';
import type { RunOrderCommand } from './run-order-command.ts';

/** The commands of an order over HTTP. */
export function orderCommandRoutes(run: RunOrderCommand): Route[] {
  return [placeRoute(run), payRoute(run), shipRoute(run), cancelRoute(run), refundRoute(run)];
}

const common = { params: orderParams, headers: guardedHeaders, tag: 'Orders' } as const;

function placeRoute(run: RunOrderCommand): Route {
  return route({
    method: 'POST',
    path: '/v1/orders',
    operationId: 'placeOrder',
    tag: 'Orders',
    summary: 'Place an order',
    description:
      'The server computes the total. With automatic fulfilment the service reserves the stock, captures ' +
      'the payment and ships the order by itself, or cancels the order if that fails.',
    headers: keyedHeaders,
    body: placeOrderBody,
    example: {
      customerId: 'c-1',
      currency: 'EUR',
      items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
    },
    answers: { 201: orderAnswered('The new order.', 'Location') },
    problems: [refusalKind('total_too_large'), orderProblemKinds.fulfilmentOff, ...writeProblems],
    handle: ({ body: { fulfilment, ...order }, ...request }) => {
      const orderId = uuidv7();
      const saga = fulfilment === 'automatic' ? { sagaId: uuidv7() } : {};
      return run(request, orderId, { type: 'PlaceOrder', orderId, ...order, ...saga });
    },
  });
}

function payRoute(run: RunOrderCommand): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/pay',
    operationId: 'payOrder',
    summary: 'Record a payment',
    description:
      'Records a payment that has already happened. Every such payment is recorded: also a second one, ' +
      'one of another amount than the total, one for a shipped or cancelled order, and one during an ' +
      'automatic fulfilment. owedCents of the response is what the order must pay back. The order is paid ' +
      'once its payments cover the total. Repeating the same payment changes nothing. The service does not ' +
      'check that a paymentId is used for one order only.',
    body: payOrderBody,
    example: { paymentId: 'pay-1', amountCents: 2500 },
    answers: { 200: orderAnswered('The order, with the payment.') },
    problems: commandProblems('payment_amount_mismatch', 'payment_id_taken', 'too_many_payments'),
    handle: ({ body, params, ...request }) =>
      run(request, params.orderId, { type: 'PayOrder', ...body }),
  });
}

function shipRoute(run: RunOrderCommand): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/ship',
    operationId: 'shipOrder',
    summary: 'Record the shipment',
    description:
      'Send this for a paid order before the parcel leaves. If the order is cancelled at the same time, ' +
      'the first request wins and the other is refused. Repeating the same trackingNumber changes nothing.',
    body: shipOrderBody,
    example: { trackingNumber: 'T-1', carrier: 'post' },
    answers: { 200: orderAnswered('The shipped order.') },
    problems: commandProblems(
      'order_not_paid',
      'order_already_shipped',
      'order_cancelled',
      'fulfilment_running',
    ),
    handle: ({ body, params, ...request }) =>
      run(request, params.orderId, { type: 'ShipOrder', ...body }),
  });
}

function cancelRoute(run: RunOrderCommand): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/cancel',
    operationId: 'cancelOrder',
    summary: 'Cancel an order that has not shipped',
    description:
      'owedCents of the response is what must be paid back to the customer. During an automatic fulfilment ' +
      'the response is 202, and the order is cancelled once the fulfilment has been undone.',
    body: cancelOrderBody,
    example: { reason: 'changed my mind' },
    answers: {
      200: orderAnswered('The cancelled order.'),
      202: orderAnswered('The order. Its fulfilment is being undone.'),
    },
    problems: commandProblems('order_already_shipped', 'shipment_requested'),
    handle: ({ body, params, ...request }) =>
      run(request, params.orderId, { type: 'CancelOrder', ...body }),
  });
}

function refundRoute(run: RunOrderCommand): Route {
  return route({
    ...common,
    method: 'POST',
    path: '/v1/orders/{orderId}/refund',
    operationId: 'refundOrder',
    summary: 'Record a refund',
    description:
      'Records a refund that has already happened, up to owedCents. A cancelled order owes all that was ' +
      'captured; any other order owes what exceeds its total. An order can have up to 100 refunds. ' +
      'paymentId names the refunded payment; by default it is the newest one with enough left. Repeating ' +
      'the same refund changes nothing.',
    body: refundOrderBody,
    example: { refundId: 'ref-1', amountCents: 2500 },
    answers: { 200: orderAnswered('The order, with the refund.') },
    problems: commandProblems(
      'order_not_cancelled',
      'refund_id_taken',
      'refund_exceeds_owed',
      'too_many_refunds',
      'fulfilment_running',
    ),
    handle: ({ body, params, ...request }) =>
      run(request, params.orderId, { type: 'RefundOrder', ...body }),
  });
}

/** An answer that shows an order. */
export function orderAnswered(description: string, ...more: readonly DescribedHeader[]) {
  const headers: readonly DescribedHeader[] = ['ETag', 'Idempotency-Replayed', ...more];
  return { description, schema: orderResponse, headers } satisfies AnswerSpec;
}

const { versionConflict, overloaded, outboxFull, clockOff, databaseUnavailable, outcomeUnknown } =
  orderProblemKinds;

/** What anything that is written with an order can fail with. */
const writeProblems = [
  overloaded,
  outboxFull,
  clockOff,
  databaseUnavailable,
  outcomeUnknown,
] as const;

/** What a command on an order can fail with: the refusals named, and what any of them can. */
export function commandProblems(...codes: readonly RejectionCode[]) {
  return [
    ...['order_not_found' as const, ...codes, 'version_mismatch' as const].map(refusalKind),
    versionConflict,
    ...writeProblems,
  ];
}
