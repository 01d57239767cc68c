import type { ProblemKind } from '#src/http/problem.ts';

/** What a route of fulfilments or of the stock can fail with, beside what any order command can. */
export const fulfilmentProblemKinds = {
  notFound: {
    code: 'fulfilment_not_found',
    status: 404,
    title: 'No fulfilment of this order',
    advice: 'There is no such order, or its fulfilment was never started.',
  },
  notStuck: {
    code: 'fulfilment_not_stuck',
    status: 409,
    title: 'Fulfilment is not stuck',
    advice: 'It goes on by itself or has ended. Only a stuck fulfilment takes retry and resolve.',
  },
  stepNotOpen: {
    code: 'step_not_open',
    status: 409,
    title: 'Step is not open',
    advice:
      'The fulfilment does not wait for this step. `open` of the answer lists those it waits for.',
  },
  stockNotFound: {
    code: 'stock_not_found',
    status: 404,
    title: 'No such sku in stock',
    advice: 'Nothing was ever put on hand under this sku. PUT /v1/stock/{sku} does so.',
  },
  stockReserved: {
    code: 'stock_reserved',
    status: 409,
    title: 'More is reserved than that',
    advice:
      'onHand may not fall below what is reserved: `stock` of the answer shows it. Cancel orders ' +
      'first, or wait until they ship.',
  },
  stockTooLarge: {
    code: 'stock_too_large',
    status: 422,
    title: 'Stock too large',
    advice: 'onHand may not grow above 1000000000: `stock` of the answer shows what is there.',
  },
} as const satisfies Record<string, ProblemKind>;
