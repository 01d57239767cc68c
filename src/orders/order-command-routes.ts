import type { FastifyReply, FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { v7 as uuidv7 } from 'uuid';
import { z } from 'zod';
import { requireService } from '#src/http/access.ts';
import { ifMatchHolds } from '#src/http/entity-tags.ts';
import { currencyCode, safeText, skuText } from '#src/http/fields.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { response } from '#src/http/openapi.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import { guardedHeaders, keyedHeaders, requestMetadata } from '#src/http/request-head.ts';
import { sendText } from '#src/http/responses.ts';
import type { OrderCommand } from './domain/order-commands.ts';
import type { HandleOrderCommand } from './handle-order-command.ts';
import { orderProblemKind, orderProblemKinds } from './order-problems.ts';
import type { OrderProblemCode } from './order-problems.ts';
import { orderParams, orderResponse } from './order-schemas.ts';

const ITEMS_MAX = 200;
const QUANTITY_MAX = 100_000;
const PRICE_CENTS_MAX = 1_000_000_000_000;
/** The caller sets the prices, so a customer could have goods shipped at a price of its own choice. */
const AUTOMATIC_IS_FOR_SERVICES = 'Only a service can ask for an automatic fulfilment.';

const reference = safeText(1, 100);
const cents = (min: number) => z.int().min(min).max(Number.MAX_SAFE_INTEGER);

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
    body: z.strictObject({ paymentId: reference, amountCents: cents(0) }),
    example: { paymentId: 'pay-1', amountCents: 2500 },
    toCommand: (body) => ({ type: 'PayOrder', ...body }),
    responses: { 200: 'The order, with the payment.' },
    problems: ['payment_amount_mismatch', 'payment_id_taken', 'too_many_payments'],
  }),
  ship: command({
    operationId: 'shipOrder',
    summary: 'Record the shipment',
    description:
      'Send this for a paid order before the parcel leaves. If the order is cancelled at the same time, ' +
      'the first request wins and the other is refused. Repeating the same trackingNumber changes nothing.',
    body: z.strictObject({ trackingNumber: reference, carrier: reference }),
    example: { trackingNumber: 'T-1', carrier: 'post' },
    toCommand: (body) => ({ type: 'ShipOrder', ...body }),
    responses: { 200: 'The shipped order.' },
    problems: ['order_not_paid', 'order_already_shipped', 'order_cancelled', 'fulfilment_running'],
  }),
  cancel: command({
    operationId: 'cancelOrder',
    summary: 'Cancel an order that has not shipped',
    description:
      'owedCents of the response is what must be paid back to the customer. During an automatic fulfilment ' +
      'the response is 202, and the order is cancelled once the fulfilment has been undone.',
    body: z.strictObject({ reason: safeText(1, 500) }),
    example: { reason: 'changed my mind' },
    toCommand: (body) => ({ type: 'CancelOrder', ...body }),
    responses: {
      200: 'The cancelled order.',
      202: 'The order. Its fulfilment is being undone.',
    },
    customers: true,
    problems: ['order_already_shipped', 'shipment_requested'],
  }),
  refund: command({
    operationId: 'refundOrder',
    summary: 'Record a refund',
    description:
      'Records a refund that has already happened, up to owedCents. A cancelled order owes all that was ' +
      'captured; any other order owes what exceeds its total. An order can have up to 100 refunds. ' +
      'paymentId names the refunded payment; by default it is the newest one with enough left. Repeating ' +
      'the same refund changes nothing.',
    body: z.strictObject({
      refundId: reference,
      amountCents: cents(1),
      paymentId: reference
        .optional()
        .describe('The payment that is refunded. By default the newest one with enough left.'),
    }),
    example: { refundId: 'ref-1', amountCents: 2500 },
    toCommand: (body) => ({ type: 'RefundOrder', ...body }),
    responses: { 200: 'The order, with the refund.' },
    problems: [
      'order_not_cancelled',
      'refund_id_taken',
      'refund_exceeds_owed',
      'too_many_refunds',
      'fulfilment_running',
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
    problems: ['order_already_paid', 'order_already_shipped', 'order_cancelled', 'fulfilment_off'],
  }),
};

/** What every command that writes an order can fail with. */
const writeProblems = [
  problemKind('overloaded'),
  ...orderProblemKinds('outbox_full', 'clock_off', 'database_unavailable', 'outcome_unknown'),
];

const orderItem = z.strictObject({
  sku: skuText,
  quantity: z.int().min(1).max(QUANTITY_MAX),
  priceCents: z.int().min(0).max(PRICE_CENTS_MAX).describe('Price of one.'),
});

const placeOrderBody = z
  .strictObject({
    customerId: safeText(1, 64),
    currency: currencyCode,
    items: z.array(orderItem).min(1).max(ITEMS_MAX),
    fulfilment: z
      .enum(['manual', 'automatic'])
      .default('manual')
      .describe(
        'automatic: the service reserves the stock, captures the payment and ships by itself.',
      ),
  })
  .meta({
    examples: [
      {
        customerId: 'c-1',
        currency: 'EUR',
        items: [{ sku: 'book', quantity: 2, priceCents: 1250 }],
      },
    ],
  });

const placeOrder = {
  operationId: 'placeOrder',
  tags: ['Orders'],
  summary: 'Place an order',
  description:
    'The server computes the total. With automatic fulfilment the service reserves the stock, captures ' +
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
        problems: [...orderProblemKinds('total_too_large', 'fulfilment_off'), ...writeProblems],
        customerProblems: [...orderProblemKinds('other_customer'), problemKind('services_only')],
      },
    },
    (request, reply) => {
      const orderId = uuidv7();
      const { fulfilment, ...order } = request.body;
      requireOwn(request, order.customerId);
      if (fulfilment === 'automatic') requireService(request.principal, AUTOMATIC_IS_FOR_SERVICES);
      const saga = fulfilment === 'automatic' ? { sagaId: uuidv7() } : {};
      return run(request, reply, orderId, { type: 'PlaceOrder', orderId, ...order, ...saga });
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
function createRun({ handle, inFlight, countCommand, toProblem }: CommandRouteDependencies) {
  const respond = async (request: FastifyRequest, orderId: string, command: OrderCommand) => {
    const { keyed, ifMatch } = request;
    try {
      const result = await inFlight.run(keyed, () =>
        handle({
          orderId,
          command,
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
  ): Promise<void> => {
    await sendText(reply, await respond(request, orderId, command));
  };
}

function outcomeOf(problem: Problem | undefined): CommandOutcome {
  if (problem === undefined || problem.code === 'outcome_unknown') return 'unknown';
  if (problem.code === 'version_conflict' || problem.status === 412) return 'conflict';
  return problem.status === 503 ? 'shed' : 'rejected';
}
