import type { Pool } from 'pg';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import type { EntityTags } from '#src/http/entity-tags.ts';
import { cursorText, instant, queryInteger, safeText, skuText } from '#src/http/fields.ts';
import type { InFlight, KeyedRequest } from '#src/http/idempotency.ts';
import { unmatched } from '#src/http/entity-tags.ts';
import { problemKinds } from '#src/http/problem-kinds.ts';
import type { Problem, ProblemKind } from '#src/http/problem.ts';
import { commandHeaders, guardedHeaders } from '#src/http/request-head.ts';
import { route } from '#src/http/route.ts';
import type { AnswerSpec, DescribedHeader, ReadyAnswer, Route } from '#src/http/route.ts';
import { orderProblem, orderProblemKinds, toOrderProblem } from '#src/orders/order-problems.ts';
import { ON_HAND_MAX, changeStock, createSkuTurns, listStock, readStock } from './inventory.ts';
import type { SkuTurns, StockChange, StockOutcome } from './inventory.ts';

const PAGE_MAX = 100;
const PAGE_DEFAULT = 25;

const sku = safeText(1, 64);
const stockParams = z.strictObject({ sku });
const changedStockParams = z.strictObject({ sku: skuText });
const stockBody = z.strictObject({ onHand: z.int().min(0).max(ON_HAND_MAX) });
const adjustBody = z.strictObject({
  delta: z
    .int()
    .min(-ON_HAND_MAX)
    .max(ON_HAND_MAX)
    .refine((delta) => delta !== 0, { error: 'must not be 0' })
    .meta({ not: { const: 0 } }),
});
const stockQuery = z.strictObject({
  limit: queryInteger(1, PAGE_MAX).default(PAGE_DEFAULT),
  cursor: cursorText(400)
    .refine(isCursor, { error: 'must be a nextCursor that this service sent' })
    .optional(),
});
const stockLevel = z
  .object({
    sku: z.string(),
    onHand: z.int(),
    reserved: z.int(),
    available: z.int(),
    updatedAt: instant,
  })
  .meta({ id: 'StockLevel' });

const example = {
  sku: 'book',
  onHand: 50,
  reserved: 2,
  available: 48,
  updatedAt: '2026-01-31T12:00:00.000Z',
};
const { databaseUnavailable, outcomeUnknown } = orderProblemKinds;
/** What these routes can fail with, besides an unavailable database. */
const stockNotFound = {
  code: 'stock_not_found',
  status: 404,
  title: 'No such sku in stock',
  advice: 'This sku has no stock. Set it with PUT /v1/stock/{sku}.',
} as const satisfies ProblemKind;
const stockReserved = {
  code: 'stock_reserved',
  status: 409,
  title: 'Stock is reserved',
  advice:
    'onHand cannot be less than the reserved quantity, which `stock` of this response shows. ' +
    'Cancel orders first, or wait until they have shipped.',
} as const satisfies ProblemKind;
const stockTooLarge = {
  code: 'stock_too_large',
  status: 422,
  title: 'Stock too large',
  advice:
    'onHand cannot be more than 1000000000. `stock` of this response shows the present stock.',
} as const satisfies ProblemKind;
const changeProblems = [
  stockReserved,
  problemKinds.preconditionFailed,
  databaseUnavailable,
  outcomeUnknown,
] as const;

function stockAnswered(description: string, ...more: readonly DescribedHeader[]) {
  const headers: readonly DescribedHeader[] = ['ETag', 'Idempotency-Replayed', ...more];
  return { description, schema: stockLevel, headers, example } satisfies AnswerSpec;
}

/** What the stock routes work with. */
export type InventoryAccess = Readonly<{ reads: ReadPool; writes: Pool; inFlight: InFlight }>;

/** The stock over HTTP: read, listed, set, adjusted. */
export function inventoryRoutes(access: InventoryAccess): Route[] {
  const changing = { ...access, takeTurns: createSkuTurns() };
  return [putRoute(changing), adjustRoute(changing), getRoute(access), listRoute(access)];
}

type ChangeAccess = InventoryAccess & Readonly<{ takeTurns: SkuTurns }>;

function putRoute(access: ChangeAccess): Route {
  return route({
    method: 'PUT',
    path: '/v1/stock/{sku}',
    operationId: 'setStock',
    tag: 'Stock',
    summary: 'Set the stock of a sku',
    description:
      'onHand includes what is reserved, until it has shipped. When you count the stock, read the ETag ' +
      'before the count and send it as If-Match: the request is then refused if something shipped in ' +
      'between. Send If-None-Match: * to set only a sku that has no stock yet.',
    params: changedStockParams,
    headers: guardedHeaders.extend({ 'if-none-match': commandHeaders['if-none-match'] }),
    body: stockBody,
    example: { onHand: 50 },
    answers: {
      200: stockAnswered('The stock of the sku.'),
      201: stockAnswered('The stock of a new sku.', 'Location'),
    },
    problems: changeProblems,
    handle: ({ params, body, ...request }) => change(access, { ...params, ...body }, request),
  });
}

function adjustRoute(access: ChangeAccess): Route {
  return route({
    method: 'POST',
    path: '/v1/stock/{sku}/adjust',
    operationId: 'adjustStock',
    tag: 'Stock',
    summary: 'Add to or subtract from the stock of a sku',
    description:
      'For goods that came in or were lost. The result is right even if something ships at the same time. ' +
      'Send an Idempotency-Key: without one, a retry changes the stock again.',
    params: changedStockParams,
    headers: guardedHeaders,
    body: adjustBody,
    example: { delta: -2 },
    answers: { 200: stockAnswered('The stock of the sku.') },
    problems: [stockNotFound, stockTooLarge, ...changeProblems],
    handle: ({ params, body, ...request }) => change(access, { ...params, ...body }, request),
  });
}

type ChangeRequest = Readonly<{
  headers: Readonly<{
    'if-match'?: EntityTags | undefined;
    'if-none-match'?: EntityTags | undefined;
  }>;
  keyed: KeyedRequest | undefined;
}>;

/** @throws Problem */
async function change(
  { writes, inFlight, takeTurns }: ChangeAccess,
  wanted: StockChange,
  { headers, keyed }: ChangeRequest,
): Promise<ReadyAnswer> {
  const ifMatch = headers['if-match'];
  const guards = { ifMatch, ifNoneMatch: headers['if-none-match'], keyed };
  const outcome = await inFlight.run(keyed, () =>
    withProblems(takeTurns(wanted.sku, () => changeStock(writes, wanted, guards))),
  );
  if ('refusal' in outcome) throw refusalProblem(outcome, ifMatch);
  const { status, stock, replayed } = outcome;
  return {
    status,
    text: JSON.stringify(stock.level),
    headers: {
      etag: stock.etag,
      ...(status === 201 && { location: `/v1/stock/${encodeURIComponent(wanted.sku)}` }),
      ...(replayed && { 'idempotency-replayed': 'true' }),
    },
  };
}

/** A refusal shows the present stock, so that the caller can decide again. */
function refusalProblem(
  { refusal, stock }: Extract<StockOutcome, { refusal: unknown }>,
  ifMatch: EntityTags | undefined,
): Problem {
  const details = stock
    ? { extra: { stock: stock.level }, headers: { etag: stock.etag } }
    : undefined;
  switch (refusal) {
    case 'unmatched':
      return unmatched(ifMatch, details);
    case 'missing':
      return orderProblem(stockNotFound);
    case 'reserved':
      return orderProblem(stockReserved, details);
    case 'too_many':
      return orderProblem(stockTooLarge, details);
  }
}

function getRoute({ reads }: InventoryAccess): Route {
  return route({
    method: 'GET',
    path: '/v1/stock/{sku}',
    operationId: 'getStock',
    tag: 'Stock',
    summary: 'Read the stock of a sku',
    params: stockParams,
    answers: { 200: { description: 'The stock of the sku.', schema: stockLevel, example } },
    problems: [stockNotFound, databaseUnavailable],
    handle: async ({ params }) => {
      const stock = await withProblems(readStock(reads, params.sku));
      if (!stock) throw orderProblem(stockNotFound);
      return { status: 200, body: stock.level, headers: { etag: stock.etag } };
    },
  });
}

function listRoute({ reads }: InventoryAccess): Route {
  return route({
    method: 'GET',
    path: '/v1/stock',
    operationId: 'listStock',
    tag: 'Stock',
    summary: 'List the stock, ordered by sku',
    query: stockQuery,
    answers: {
      200: {
        description: 'A page of the stock. nextCursor is null on the last page.',
        schema: z.object({ data: z.array(stockLevel), nextCursor: z.string().nullable() }),
        example: { data: [example], nextCursor: null },
      },
    },
    problems: [databaseUnavailable],
    handle: async ({ query }) => ({
      status: 200,
      body: await withProblems(listStock(reads, query.limit, query.cursor)),
    }),
  });
}

/** @throws Problem if the database is unavailable */
async function withProblems<Result>(result: Promise<Result>): Promise<Result> {
  try {
    return await result;
  } catch (error) {
    throw toOrderProblem(error);
  }
}

/** Whether `listStock` can have made the cursor: it decodes to a sku, which encodes to the same cursor. */
function isCursor(cursor: string): boolean {
  const text = Buffer.from(cursor, 'base64url').toString();
  return sku.safeParse(text).success && Buffer.from(text).toString('base64url') === cursor;
}
