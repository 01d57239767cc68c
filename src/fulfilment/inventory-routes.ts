import { z } from 'zod';
import type { Reads } from '#src/database/reads.ts';
import { instant, queryInteger, safeText } from '#src/http/fields.ts';
import { route } from '#src/http/route.ts';
import type { Route } from '#src/http/route.ts';
import { orderProblem, orderProblemKinds, toOrderProblem } from '#src/orders/order-problems.ts';
import { fulfilmentProblemKinds } from './fulfilment-problems.ts';
import { listStock, readStock, setOnHand } from './inventory.ts';

const ON_HAND_MAX = 1_000_000_000;
const PAGE_MAX = 100;
const PAGE_DEFAULT = 25;

const sku = safeText(1, 64);
const stockParams = z.strictObject({ sku });
const stockBody = z.strictObject({ onHand: z.int().min(0).max(ON_HAND_MAX) });
const stockQuery = z.strictObject({
  limit: queryInteger(1, PAGE_MAX).default(PAGE_DEFAULT),
  cursor: z
    .string()
    .min(1)
    .max(400)
    .refine(isCursor, { error: 'must be nextCursor as it was answered' })
    .optional(),
});
const stockLevel = z.object({
  sku: z.string(),
  onHand: z.int(),
  reserved: z.int(),
  available: z.int(),
  updatedAt: instant,
});

const example = {
  sku: 'book',
  onHand: 50,
  reserved: 2,
  available: 48,
  updatedAt: '2026-01-31T12:00:00.000Z',
};
const { databaseUnavailable, outcomeUnknown } = orderProblemKinds;

/** What is in stock, and how it gets there. */
export function inventoryRoutes(reads: Reads): Route[] {
  return [putRoute(reads), getRoute(reads), listRoute(reads)];
}

function putRoute(reads: Reads): Route {
  return route({
    method: 'PUT',
    path: '/v1/stock/{sku}',
    operationId: 'setStock',
    tag: 'Stock',
    summary: 'Set what is on hand of a sku',
    description: 'What is reserved counts as on hand until it has been shipped.',
    params: stockParams,
    body: stockBody,
    example: { onHand: 50 },
    answers: { 200: { description: 'The stock of the sku.', schema: stockLevel, example } },
    problems: [fulfilmentProblemKinds.stockReserved, databaseUnavailable, outcomeUnknown],
    handle: async ({ params, body }) => {
      const level = await asking(setOnHand(reads, params.sku, body.onHand));
      if (!level) throw orderProblem(fulfilmentProblemKinds.stockReserved);
      return { status: 200, body: level };
    },
  });
}

function getRoute(reads: Reads): Route {
  return route({
    method: 'GET',
    path: '/v1/stock/{sku}',
    operationId: 'getStock',
    tag: 'Stock',
    summary: 'Read the stock of a sku',
    params: stockParams,
    answers: { 200: { description: 'The stock of the sku.', schema: stockLevel, example } },
    problems: [fulfilmentProblemKinds.stockNotFound, databaseUnavailable],
    handle: async ({ params }) => {
      const level = await asking(readStock(reads, params.sku));
      if (!level) throw orderProblem(fulfilmentProblemKinds.stockNotFound);
      return { status: 200, body: level };
    },
  });
}

function listRoute(reads: Reads): Route {
  return route({
    method: 'GET',
    path: '/v1/stock',
    operationId: 'listStock',
    tag: 'Stock',
    summary: 'List the stock in the order of skus',
    query: stockQuery,
    answers: {
      200: {
        description: 'One page; nextCursor is null at the end.',
        schema: z.object({ data: z.array(stockLevel), nextCursor: z.string().nullable() }),
        example: { data: [example], nextCursor: null },
      },
    },
    problems: [databaseUnavailable],
    handle: async ({ query }) => ({
      status: 200,
      body: await asking(listStock(reads, query.limit, query.cursor)),
    }),
  });
}

/** @throws Problem where the database is away */
async function asking<Result>(answer: Promise<Result>): Promise<Result> {
  try {
    return await answer;
  } catch (error) {
    throw toOrderProblem(error);
  }
}

function isCursor(cursor: string): boolean {
  return sku.safeParse(Buffer.from(cursor, 'base64url').toString()).success;
}
