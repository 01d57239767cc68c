import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { safeText, uuid } from '#src/http/fields.ts';
import { response } from '#src/http/openapi.ts';
import { guardedHeaders, requestMetadata } from '#src/http/request-head.ts';
import { sendText } from '#src/http/responses.ts';
import { createAddressHandler } from './change-address.ts';
import { LEFT_MAX, eraseCustomer } from './erase-customer.ts';
import { createRun, writeProblems } from './order-command-routes.ts';
import type { CommandRouteDependencies } from './order-command-routes.ts';
import { orderProblemKinds } from './order-problems.ts';
import { orderParams, orderResponse } from './order-schemas.ts';
import { shippingAddress } from './personal-data.ts';

const tags = ['Personal data'];
const onOrder = { tags, params: orderParams, headers: guardedHeaders };
const headersOfResponse = ['ETag', 'Idempotency-Replayed'] as const;
const conflicts = orderProblemKinds('order_not_found', 'version_mismatch', 'version_conflict');
const eraseAccess = { scope: 'personal-data:erase', customers: false } as const;

const changeShippingAddress = {
  schema: {
    ...onOrder,
    operationId: 'changeShippingAddress',
    summary: 'Change the shipping address',
    description:
      'Sets another address, or the first one, until the carrier is asked to ship or a parcel has left. The ' +
      'event says that the address has changed, and not to what. Sending the present address again changes ' +
      'nothing. The response does not show the address: read the order.',
    body: shippingAddress,
    response: {
      200: response(orderResponse, 'The order, without personal data.', headersOfResponse),
    },
  },
  config: {
    access: { scope: 'orders:write', customers: true } as const,
    problems: [
      ...conflicts,
      ...orderProblemKinds(
        'order_cancelled',
        'order_already_shipped',
        'order_partly_shipped',
        'shipment_requested',
        'personal_data_erased',
      ),
      ...writeProblems,
    ],
  },
};

const eraseOrder = {
  schema: {
    ...onOrder,
    operationId: 'erasePersonalDataOfOrder',
    summary: 'Erase the personal data of an order',
    description:
      'Erases address, contact and payment method for good. The history stays as it is, and records that they ' +
      'were erased. Repeating it changes nothing. While an automatic fulfilment runs or is stuck, it is refused.',
    response: {
      200: response(orderResponse, 'The order, without personal data.', headersOfResponse),
    },
  },
  config: {
    access: eraseAccess,
    problems: [...conflicts, ...orderProblemKinds('fulfilment_running'), ...writeProblems],
  },
};

const erasedPage = z
  .object({
    erased: z.int().describe('Orders of this page whose personal data is gone.'),
    refused: z
      .array(z.object({ orderId: z.string(), code: z.string() }))
      .describe('Orders of this page that keep it for now, and the code of the problem.'),
    left: z
      .int()
      .describe(`Orders of the customer that still have personal data, counted up to ${LEFT_MAX}.`),
    nextCursor: z.string().nullable(),
  })
  .meta({ examples: [{ erased: 12, refused: [], left: 0, nextCursor: null }] });

const eraseOfCustomer = {
  schema: {
    operationId: 'erasePersonalDataOfCustomer',
    tags,
    summary: 'Erase the personal data of a customer',
    description:
      'Erases address, contact and payment method of up to 100 orders of the customer, each order by itself. ' +
      'Send nextCursor as cursor until it is null. If `left` is not 0 then, start again without a cursor: later, ' +
      'if orders were refused, because their fulfilment must end first. A call that fails on the way has erased ' +
      'the orders that it had come to, so repeat it. The id of the customer and the history of the orders stay.',
    params: z.strictObject({ customerId: safeText(1, 64) }),
    querystring: z.strictObject({
      cursor: uuid.optional().describe('nextCursor of the call before.'),
    }),
    response: { 200: response(erasedPage, 'What was erased, and what is left.') },
  },
  config: { access: eraseAccess, problems: writeProblems },
};

export type PersonalDataRouteDependencies = CommandRouteDependencies &
  Readonly<{ reads: ReadPool }>;

/** Changes and erases personal data over HTTP. It is read with the order. */
export const personalDataRoutes: FastifyPluginAsyncZod<PersonalDataRouteDependencies> = async (
  app,
  { reads, ...dependencies },
) => {
  const { handle } = dependencies;
  const run = createRun(dependencies);
  const runAddress = createRun({ ...dependencies, handle: createAddressHandler(handle, reads) });
  app.put('/v1/orders/:orderId/shipping-address', changeShippingAddress, (request, reply) => {
    const { params, body } = request;
    const command = { type: 'ChangeShippingAddress' } as const;
    return runAddress(request, reply, params.orderId, command, { shippingAddress: body });
  });
  app.delete('/v1/orders/:orderId/personal-data', eraseOrder, (request, reply) =>
    run(request, reply, request.params.orderId, { type: 'ErasePersonalData' }),
  );
  app.delete('/v1/customers/:customerId/personal-data', eraseOfCustomer, async (request, reply) => {
    const { params, query } = request;
    const metadata = requestMetadata(request);
    const page = await eraseCustomer({ handle, reads }, params.customerId, {
      cursor: query.cursor,
      metadata,
    });
    return sendText(reply, { status: 200, etag: null, body: JSON.stringify(page) });
  });
};
