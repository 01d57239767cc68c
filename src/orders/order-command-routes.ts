import type { FastifyReply, FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { v7 as uuidv7 } from 'uuid';
import type { z } from 'zod';
import { requireService } from '#src/http/access.ts';
import { ifMatchHolds } from '#src/http/entity-tags.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { response } from '#src/http/openapi.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import { guardedHeaders, keyedHeaders, requestMetadata } from '#src/http/request-head.ts';
import { sendText } from '#src/http/responses.ts';
import type { OrderCommand } from './domain/order-commands.ts';
import type { HandleOrderCommand } from './handle-order-command.ts';
import { orderProblemKind, orderProblemKinds } from './order-problems.ts';
import type { OrderProblemCode } from './order-problems.ts';
import { commandBodies, orderParams, orderResponse, placeOrderBody } from './order-schemas.ts';
import type { PersonalData } from './personal-data.ts';

/** The caller sets the prices, so a customer could have goods shipped at a price of its own choice. */
const AUTOMATIC_IS_FOR_SERVICES = 'Only a service can ask for an automatic fulfilment.';

export type CommandOutcome = 'ok' | 'replayed' | 'conflict' | 'rejected' | 'shed' | 'unknown';

export type CommandRouteDependencies = Readonly<{
  handle: HandleOrderCommand;
  inFlight: InFlight;
  countCommand: (command: string, outcome: CommandOutcome) => void;
  /** The problem that an error of `handle` becomes. */
  toProblem: (
    error: unknown,
    circumstances: Pick<FastifyRequest, 'ifMatch'> & Readonly<{ orderId: string | undefined }>,
  ) => Problem | undefined;
}>;

/** A command on an existing order. The name of its row is the last part of its path. */
type CommandRow<Body extends z.ZodType = z.ZodType> = Readonly<{
  operationId: string;
  tag?: string;
  summary: string;
  description: string;
  /** Left out if the command has no fields. */
  body?: Body;
  example?: z.input<Body>;
  toCommand(body: z.output<Body>): OrderCommand;
  /** The status of each response and what it shows. */
  responses: Readonly<Record<number, string>>;
  /** Whether a response has the header Location. */
  isLocated?: boolean;
  /** Whether a customer may send it for its own order. */
  customers?: boolean;
  /** What it can fail with, besides what every command on an order can. */
  problems: readonly OrderProblemCode[];
}>;

/** Declares a row whose `toCommand` takes the output of its `body`. */
function command<Body extends z.ZodType>(row: CommandRow<Body>): CommandRow {
  return row;
}

const commands: Readonly<Record<string, CommandRow>> = {
  pay: command({
    operationId: 'payOrder',
    summary: 'Record a payment',
    description:
      'Records a payment that has already happened. Every such payment is recorded: also a second one, ' +
      'one of another amount than the total, one for a shipped or cancelled order, and one during an ' +
      'automatic fulfilment. owedCents of the response is what the order must pay back. The order is paid ' +
      'once its payments cover the total. Repeating the same payment changes nothing. The service does not ' +
      'check that a paymentId is used for one order only.',
    body: commandBodies.pay,
    example: { paymentId: 'pay-1', amountCents: 2500 },
    toCommand: (body) => ({ type: 'PayOrder', ...body }),
    responses: { 200: 'The order, with the payment.' },
    problems: ['payment_amount_mismatch', 'payment_id_taken', 'too_many_payments'],
  }),
  ship: command({
    operationId: 'shipOrder',
    summary: 'Record the shipment of a parcel',
    description:
      'Send this for a paid order before a parcel leaves. Each call is one parcel: with items, a part of ' +
      'the order; without, all that is left. The order is shipped once every line has shipped. If the ' +
      'order is cancelled at the same time, the first request wins and the other is refused. Repeating ' +
      'the same trackingNumber changes nothing.',
    body: commandBodies.ship,
    example: { trackingNumber: 'T-1', carrier: 'post', items: [{ lineId: '1', quantity: 1 }] },
    toCommand: (body) => ({ type: 'ShipOrder', ...body }),
    responses: { 200: 'The order, with the parcel.' },
    problems: [
      'order_not_paid',
      'order_already_shipped',
      'order_cancelled',
      'fulfilment_running',
      'line_not_found',
      'shipment_exceeds_ordered',
      'tracking_number_taken',
      'too_many_parcels',
    ],
  }),
  deliver: command({
    operationId: 'deliverParcel',
    summary: 'Record the delivery of a parcel',
    description:
      'Records that a parcel has reached the customer. The shipment status is delivered once every line ' +
      'has shipped and every parcel was delivered. Repeating it changes nothing.',
    body: commandBodies.deliver,
    example: { trackingNumber: 'T-1' },
    toCommand: (body) => ({ type: 'DeliverParcel', ...body }),
    responses: { 200: 'The order, with the delivery.' },
    problems: ['parcel_not_found'],
  }),
  return: command({
    operationId: 'returnItems',
    summary: 'Record a return',
    description:
      'Records what the customer has sent back, up to what was shipped. With restock the items are put ' +
      'into the stock in the same transaction. A return moves no money: refund it with its returnId. ' +
      'Repeating the same return changes nothing.',
    body: commandBodies.return,
    example: {
      returnId: 'ret-1',
      items: [{ lineId: '1', quantity: 1 }],
      reason: 'too small',
      restock: true,
    },
    toCommand: (body) => ({ type: 'ReturnItems', ...body }),
    responses: { 200: 'The order, with the return.' },
    problems: ['line_not_found', 'return_exceeds_shipped', 'return_id_taken', 'too_many_returns'],
  }),
  cancel: command({
    operationId: 'cancelOrder',
    summary: 'Cancel an order that has not shipped',
    description:
      'owedCents of the response is what must be paid back to the customer. During an automatic fulfilment ' +
      'the response is 202, and the order is cancelled once the fulfilment has been undone.',
    body: commandBodies.cancel,
    example: { reason: 'changed my mind' },
    toCommand: (body) => ({ type: 'CancelOrder', ...body }),
    responses: {
      200: 'The cancelled order.',
      202: 'The order. Its fulfilment is being undone.',
    },
    customers: true,
    problems: ['order_already_shipped', 'order_partly_shipped', 'shipment_requested'],
  }),
  refund: command({
    operationId: 'refundOrder',
    summary: 'Refund a payment',
    description:
      'Refunds up to what was captured and not refunded yet, also of a shipped order. A payment that the ' +
      'automatic fulfilment captured is refunded by its provider: the response is 202, and Location leads ' +
      'to the refund. A payment that was reported by hand is refunded by hand: the refund has already ' +
      'happened, and is recorded. recordOnly records a refund of any payment. An order can have up to 100 ' +
      'refunds. Repeating the same refund changes nothing; one that failed needs a new refundId.',
    body: commandBodies.refund,
    example: { refundId: 'ref-1', amountCents: 1000, reason: 'too small' },
    toCommand: (body) => ({ type: 'RefundOrder', sagaId: uuidv7(), ...body }),
    responses: {
      200: 'The order, with the refund.',
      202: 'The order. The provider is being asked for the refund.',
    },
    isLocated: true,
    problems: [
      'refund_id_taken',
      'refund_exceeds_captured',
      'return_not_found',
      'too_many_refunds',
      'fulfilment_running',
      'fulfilment_off',
    ],
  }),
  fulfil: command({
    operationId: 'fulfilOrder',
    tag: 'Fulfilment',
    summary: 'Start the automatic fulfilment of a pending order',
    description:
      'Reserves the stock, captures the payment and ships the order. If a step fails, the earlier ' +
      'steps are undone. Until it has ended, shipping and refunding by hand are refused.',
    toCommand: () => ({ type: 'FulfilOrder', sagaId: uuidv7() }),
    responses: { 202: 'The order. Its fulfilment is running.' },
    isLocated: true,
    problems: [
      'order_already_paid',
      'order_already_shipped',
      'order_cancelled',
      'shipping_address_missing',
      'payment_method_missing',
      'fulfilment_off',
    ],
  }),
};

/** What every command that writes an order can fail with. */
export const writeProblems = [
  problemKind('overloaded'),
  ...orderProblemKinds('outbox_full', 'clock_off', 'database_unavailable', 'outcome_unknown'),
];

const placeOrder = {
  operationId: 'placeOrder',
  tags: ['Orders'],
  summary: 'Place an order',
  description:
    'The server computes the total and numbers the lines. With automatic fulfilment the service reserves the stock, captures ' +
    'the payment and ships the order by itself, or cancels the order if that fails.',
  headers: keyedHeaders,
  body: placeOrderBody,
  response: {
    201: response(orderResponse, 'The new order.', ['ETag', 'Idempotency-Replayed', 'Location']),
  },
};

/** The commands of an order over HTTP. */
export const orderCommandRoutes: FastifyPluginAsyncZod<CommandRouteDependencies> = async (
  app,
  dependencies,
) => {
  const run = createRun(dependencies);
  app.post(
    '/v1/orders',
    {
      schema: placeOrder,
      config: {
        access: { scope: 'orders:write', customers: true },
        problems: [
          ...orderProblemKinds(
            'total_too_large',
            'discount_exceeds_total',
            'reference_taken',
            'shipping_address_missing',
            'payment_method_missing',
            'fulfilment_off',
          ),
          ...writeProblems,
        ],
        customerProblems: [...orderProblemKinds('other_customer'), problemKind('services_only')],
      },
    },
    (request, reply) => {
      const orderId = uuidv7();
      const { command, personalData } = toPlaceOrder(orderId, request.body);
      requireOwn(request, command.customerId);
      if (command.sagaId !== undefined) {
        requireService(request.principal, AUTOMATIC_IS_FOR_SERVICES);
      }
      return run(request, reply, orderId, command, personalData);
    },
  );
  for (const [name, row] of Object.entries(commands)) {
    const problems = [
      ...orderProblemKinds('order_not_found', ...row.problems),
      ...orderProblemKinds('version_mismatch', 'version_conflict'),
      ...writeProblems,
    ];
    const access = { scope: 'orders:write', customers: row.customers ?? false } as const;
    app.post(
      `/v1/orders/:orderId/${name}`,
      { schema: schemaOf(row), config: { access, problems } },
      (request, reply) => run(request, reply, request.params.orderId, row.toCommand(request.body)),
    );
  }
};

/** Only what is set is stored: it is published with the order, and takes space in every copy of it. */
function toPlaceOrder(orderId: string, body: z.output<typeof placeOrderBody>) {
  const { fulfilment, payment, shippingAddress, contact, metadata, ...placed } = body;
  const { customerId, currency, items, externalReference } = placed;
  const { shippingCents, taxCents, discountCents } = placed;
  const command = {
    type: 'PlaceOrder',
    orderId,
    customerId,
    currency,
    items,
    ...(shippingCents > 0 && { shippingCents }),
    ...(taxCents > 0 && { taxCents }),
    ...(discountCents > 0 && { discountCents }),
    ...(externalReference !== undefined && { externalReference }),
    ...(metadata !== undefined && Object.keys(metadata).length > 0 && { metadata }),
    ...(shippingAddress && { hasShippingAddress: true as const }),
    ...(contact && { hasContact: true as const }),
    ...(payment && { hasPaymentMethod: true as const }),
    ...(fulfilment === 'automatic' && { sagaId: uuidv7() }),
  } as const satisfies OrderCommand;
  const personalData: PersonalData = {
    ...(shippingAddress && { shippingAddress }),
    ...(contact && { contact }),
    ...(payment && { paymentMethod: payment.method }),
  };
  return { command, personalData };
}

function schemaOf({ operationId, tag = 'Orders', summary, description, ...row }: CommandRow) {
  const { body, example, isLocated = false, responses } = row;
  const location = isLocated ? ['Location' as const] : [];
  return {
    operationId,
    tags: [tag],
    summary,
    description,
    params: orderParams,
    headers: guardedHeaders,
    ...(body && { body: body.meta({ examples: [example] }) }),
    response: Object.fromEntries(
      Object.entries(responses).map(([status, shows]) => [
        status,
        response(orderResponse, shows, ['ETag', 'Idempotency-Replayed', ...location]),
      ]),
    ),
  };
}

/** @throws Problem `other_customer` if a customer places an order for somebody else */
function requireOwn({ principal }: FastifyRequest, customerId: string): void {
  if (principal.customerId === undefined || principal.customerId === customerId) return;
  throw new Problem(orderProblemKind('other_customer'));
}

/** Makes the function that runs one command for its route, sends the response and counts the outcome. */
export function createRun({ handle, inFlight, countCommand, toProblem }: CommandRouteDependencies) {
  const respond = async (
    request: FastifyRequest,
    orderId: string,
    command: OrderCommand,
    personalData: PersonalData | undefined,
  ) => {
    const { keyed, ifMatch } = request;
    try {
      const result = await inFlight.run(keyed, () =>
        handle({
          orderId,
          command,
          personalData,
          metadata: requestMetadata(request),
          ...(ifMatch && { matches: (version) => ifMatchHolds(ifMatch, version) }),
          keyed,
          customerId: request.principal.customerId,
        }),
      );
      countCommand(command.type, result.replayed ? 'replayed' : 'ok');
      return result;
    } catch (error) {
      const problem = toProblem(error, { ifMatch, orderId: keyed ? undefined : orderId });
      countCommand(command.type, outcomeOf(problem));
      throw problem ?? error;
    }
  };
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    orderId: string,
    command: OrderCommand,
    personalData?: PersonalData,
  ): Promise<void> => {
    await sendText(reply, await respond(request, orderId, command, personalData));
  };
}

function outcomeOf(problem: Problem | undefined): CommandOutcome {
  if (problem === undefined || problem.code === 'outcome_unknown') return 'unknown';
  if (problem.code === 'version_conflict' || problem.status === 412) return 'conflict';
  return problem.status === 503 ? 'shed' : 'rejected';
}
