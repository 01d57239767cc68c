import type { ProblemKind } from '#src/http/problem.ts';

/** What a route of fulfilments or of the stock can fail with, beside what any order command can. */
export const fulfilmentProblemKinds = {
  notFound: {
    code: 'fulfilment_not_found',
    status: 404,
    title: 'No fulfilment of this order',
    advice: 'The order does not exist, or its automatic fulfilment was never started.',
  },
  notStuck: {
    code: 'fulfilment_not_stuck',
    status: 409,
    title: 'Fulfilment is not stuck',
    advice:
      'The fulfilment is still running or has ended. Only a stuck fulfilment accepts retry and ' +
      'resolve.',
  },
  stepNotOpen: {
    code: 'step_not_open',
    status: 409,
    title: 'Step is not open',
    advice:
      'The fulfilment is not stuck at this step. `open` of this response lists the steps that ' +
      'it is stuck at.',
  },
  stockNotFound: {
    code: 'stock_not_found',
    status: 404,
    title: 'No such sku in stock',
    advice: 'This sku has no stock. Set it with PUT /v1/stock/{sku}.',
  },
  stockReserved: {
    code: 'stock_reserved',
    status: 409,
    title: 'Stock is reserved',
    advice:
      'onHand cannot be less than the reserved quantity, which `stock` of this response shows. ' +
      'Cancel orders first, or wait until they have shipped.',
  },
  stockTooLarge: {
    code: 'stock_too_large',
    status: 422,
    title: 'Stock too large',
    advice:
      'onHand cannot be more than 1000000000. `stock` of this response shows the present stock.',
  },
} as const satisfies Record<string, ProblemKind>;
