import { v7 as uuidv7 } from 'uuid';
import { guardedHeaders, keyedHeaders } from '#src/http/command-headers.ts';
import { route } from '#src/http/route.ts';
import type { AnswerSpec, DescribedHeader, Route } from '#src/http/route.ts';
import type { RejectionCode } from './domain/order-rejected.ts';
import { orderProblemKinds, refusalKind } from './order-problems.ts';
import {
  cancelOrderBody,
  orderAnswer,
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
      'The server computes the total. Prices are in the minor unit of the currency. With automatic ' +
      'fulfilment the order is reserved, charged and shipped by itself, or cancelled.',
    headers: keyedHeaders,
    body: placeOrderBody,
    example: {
      customerId: 'c-1',
      currency: 'EUR',
      items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
    },
    answers: { 201: orderAnswered('The order, placed.', 'Location') },
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
    summary: 'Record a payment of an order that has happened',
    description:
      'Any payment is recorded, also a second one, one of another amount than the total, one of an ' +
      'order that is shipped or cancelled, and one beside a fulfilment: 200 says so, and owedCents what ' +
      'is to be given back. The order is paid once its payments cover the total. amountCents is in the ' +
      'currency of the order. The same payment again changes nothing. That a paymentId is used for one ' +
      'order only is not checked.',
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
    summary: 'Record the shipment of a paid order',
    description:
      'Ask before the parcel leaves: of a shipment and a cancellation the first wins, and the other is ' +
      'refused. The same trackingNumber again changes nothing.',
    body: shipOrderBody,
    example: { trackingNumber: 'T-1', carrier: 'post' },
    answers: { 200: orderAnswered('The order, shipped.') },
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
    summary: 'Cancel an order that has not left',
    description:
      'owedCents of the answer is what is owed to the customer. While a fulfilment runs the ' +
      'answer is 202: the order is cancelled when everything has been undone.',
    body: cancelOrderBody,
    example: { reason: 'changed my mind' },
    answers: {
      200: orderAnswered('The order, cancelled.'),
      202: orderAnswered('The order; its fulfilment is being undone.'),
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
    summary: 'Record a refund of what an order owes',
    description:
      'A cancelled order owes all that was captured, any other what exceeds its total. In parts if need ' +
      'be, a hundred at most, up to owedCents. paymentId names the payment that is given back; the ' +
      'newest with enough left if it is absent. The same refund again changes nothing.',
    body: refundOrderBody,
    example: { refundId: 'ref-1', amountCents: 2500 },
    answers: { 200: orderAnswered('The order, with what it has given back.') },
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
  return { description, schema: orderAnswer, headers } satisfies AnswerSpec;
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
