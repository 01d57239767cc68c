import type { FastifyReply, FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import type { Pool } from 'pg';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { unmatched } from '#src/http/entity-tags.ts';
import { cursorText, instant, queryInteger, safeText, skuText } from '#src/http/fields.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { response } from '#src/http/openapi.ts';
import { Problem, problemKind } from '#src/http/problem.ts';
import type { ProblemKind } from '#src/http/problem.ts';
import { commandHeaders, guardedHeaders } from '#src/http/request-head.ts';
import { sendText } from '#src/http/responses.ts';
import { orderProblemKind } from '#src/orders/order-problems.ts';
import { ON_HAND_MAX, changeStock, createSkuTurns, listStock, readStock } from './inventory.ts';
import type { StockChange } from './inventory.ts';

const PAGE_MAX = 100;
const PAGE_DEFAULT = 25;

const sku = safeText(1, 64);
const example = {
  sku: 'book',
  onHand: 50,
  reserved: 2,
  available: 48,
  updatedAt: '2026-01-31T12:00:00.000Z',
};
const stockLevel = z
  .object({
    sku: z.string(),
    onHand: z.int(),
    reserved: z.int(),
    available: z.int(),
    updatedAt: instant,
  })
  .meta({ id: 'StockLevel', examples: [example] });
const stockPage = z
  .object({ data: z.array(stockLevel), nextCursor: z.string().nullable() })
  .meta({ examples: [{ data: [example], nextCursor: null }] });

const databaseUnavailable = orderProblemKind('database_unavailable');
/** What these routes can fail with, besides what any command can. */
const kinds = {
  stock_not_found: {
    status: 404,
    title: 'No such sku in stock',
    advice: 'This sku has no stock. Set it with PUT /v1/stock/{sku}.',
  },
  stock_reserved: {
    status: 409,
    title: 'Stock is reserved',
    advice:
      'onHand cannot be less than the reserved quantity, which `stock` of this response shows. ' +
      'Cancel orders first, or wait until they have shipped.',
  },
  stock_too_large: {
    status: 422,
    title: 'Stock too large',
    advice:
      'onHand cannot be more than 1000000000. `stock` of this response shows the present stock.',
  },
} as const satisfies Record<string, Omit<ProblemKind, 'code'>>;

function stockProblemKind(code: keyof typeof kinds): ProblemKind {
  return { code, ...kinds[code] };
}

const stockNotFound = stockProblemKind('stock_not_found');
const changeProblems = [
  stockProblemKind('stock_reserved'),
  problemKind('precondition_failed'),
  databaseUnavailable,
  orderProblemKind('outcome_unknown'),
];

const readAccess = { scope: 'stock:read', customers: false } as const;
const writeAccess = { scope: 'stock:write', customers: false } as const;

const tags = ['Stock'];
const setStock = {
  operationId: 'setStock',
  tags,
  summary: 'Set the stock of a sku',
  description:
    'onHand includes what is reserved, until it has shipped. When you count the stock, read the ETag ' +
    'before the count and send it as If-Match: the request is then refused if something shipped in ' +
    'between. Send If-None-Match: * to set only a sku that has no stock yet.',
  params: z.strictObject({ sku: skuText }),
  headers: guardedHeaders.extend({ 'if-none-match': commandHeaders['if-none-match'] }),
  body: z
    .strictObject({ onHand: z.int().min(0).max(ON_HAND_MAX) })
    .meta({ examples: [{ onHand: 50 }] }),
  response: {
    200: response(stockLevel, 'The stock of the sku.', ['ETag', 'Idempotency-Replayed']),
    201: response(stockLevel, 'The stock of a new sku.', [
      'ETag',
      'Idempotency-Replayed',
      'Location',
    ]),
  },
};
const adjustStock = {
  operationId: 'adjustStock',
  tags,
  summary: 'Add to or subtract from the stock of a sku',
  description:
    'For goods that came in or were lost. The result is right even if something ships at the same time. ' +
    'Send an Idempotency-Key: without one, a retry changes the stock again.',
  params: z.strictObject({ sku: skuText }),
  headers: guardedHeaders,
  body: z
    .strictObject({
      delta: z
        .int()
        .min(-ON_HAND_MAX)
        .max(ON_HAND_MAX)
        .refine((delta) => delta !== 0, { error: 'must not be 0' })
        .meta({ not: { const: 0 } }),
    })
    .meta({ examples: [{ delta: -2 }] }),
  response: {
    200: response(stockLevel, 'The stock of the sku.', ['ETag', 'Idempotency-Replayed']),
  },
};
const getStock = {
  operationId: 'getStock',
  tags,
  summary: 'Read the stock of a sku',
  params: z.strictObject({ sku }),
  response: { 200: response(stockLevel, 'The stock of the sku.') },
};
const listStockSchema = {
  operationId: 'listStock',
  tags,
  summary: 'List the stock, ordered by sku',
  querystring: z.strictObject({
    limit: queryInteger(1, PAGE_MAX).default(PAGE_DEFAULT),
    cursor: cursorText(400)
      .refine(isCursor, { error: 'must be a nextCursor that this service sent' })
      .optional(),
  }),
  response: {
    200: response(stockPage, 'A page of the stock. nextCursor is null on the last page.'),
  },
};

export type InventoryAccess = Readonly<{ reads: ReadPool; writes: Pool; inFlight: InFlight }>;

/** The stock over HTTP: read, listed, set, adjusted. */
export const inventoryRoutes: FastifyPluginAsyncZod<InventoryAccess> = async (app, access) => {
  const { reads } = access;
  const change = createChange(access);
  app.put(
    '/v1/stock/:sku',
    { schema: setStock, config: { access: writeAccess, problems: changeProblems } },
    (request, reply) => change(request, reply, { ...request.params, ...request.body }),
  );
  app.post(
    '/v1/stock/:sku/adjust',
    {
      schema: adjustStock,
      config: {
        access: writeAccess,
        problems: [stockNotFound, stockProblemKind('stock_too_large'), ...changeProblems],
      },
    },
    (request, reply) => change(request, reply, { ...request.params, ...request.body }),
  );
  app.get(
    '/v1/stock/:sku',
    {
      schema: getStock,
      config: { access: readAccess, problems: [stockNotFound, databaseUnavailable] },
    },
    async ({ params }, reply) => {
      const stock = await readStock(reads, params.sku);
      if (!stock) throw new Problem(stockNotFound);
      return reply.header('etag', stock.etag).send(stock.level);
    },
  );
  app.get(
    '/v1/stock',
    { schema: listStockSchema, config: { access: readAccess, problems: [databaseUnavailable] } },
    async ({ query }, reply) => reply.send(await listStock(reads, query.limit, query.cursor)),
  );
};

/** Makes the function that changes the stock of a sku for its route. */
function createChange({ writes, inFlight }: InventoryAccess) {
  const takeTurns = createSkuTurns();
  return async (
    { keyed, ifMatch, ifNoneMatch }: FastifyRequest,
    reply: FastifyReply,
    wanted: StockChange,
  ): Promise<void> => {
    const outcome = await inFlight.run(keyed, () =>
      takeTurns(wanted.sku, () => changeStock(writes, wanted, { ifMatch, ifNoneMatch, keyed })),
    );
    if ('refusal' in outcome) {
      const { refusal, stock } = outcome;
      // The caller gets the present stock, to decide again.
      const details = stock
        ? { extra: { stock: stock.level }, headers: { etag: stock.etag } }
        : undefined;
      throw refusal === 'unmatched'
        ? unmatched(ifMatch, details)
        : new Problem(stockProblemKind(refusals[refusal]), details);
    }
    const { status, stock, replayed } = outcome;
    const location = status === 201 ? `/v1/stock/${encodeURIComponent(wanted.sku)}` : null;
    const body = JSON.stringify(stock.level);
    await sendText(reply, { status, etag: stock.etag, location, body, replayed });
  };
}

const refusals = {
  missing: 'stock_not_found',
  reserved: 'stock_reserved',
  too_many: 'stock_too_large',
} as const;

/** Whether `listStock` can have made the cursor: it decodes to a sku, which encodes to the same cursor. */
function isCursor(cursor: string): boolean {
  const text = Buffer.from(cursor, 'base64url').toString();
  return sku.safeParse(text).success && Buffer.from(text).toString('base64url') === cursor;
}
