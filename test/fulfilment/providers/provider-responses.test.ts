import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  callOutcome,
  cancelOutcome,
  lookUpOutcome,
} from '#src/fulfilment/providers/http-providers.ts';
import { capture } from '#src/fulfilment/providers/providers.ts';

const key = 'k';
const right = { key, paymentId: 'pay_1', amountCents: 5, currency: 'EUR' };
const { key: _, ...result } = right;
const expected = {
  key,
  result: capture,
  difference: ({ amountCents }: { amountCents: number }) =>
    amountCents === 5 ? undefined : 'another amount',
};
const response = (status: number, body: unknown) => ({ kind: 'response', status, body }) as const;
const word = (outcome: string, code = 'why') => ({ outcome, code, key });

describe('the outcome of a call that has an effect', () => {
  test.each([
    [200, right, 'ok'],
    [201, right, 'ok'],
    [201, { ...right, more: { than: 'asked' } }, 'ok'],
    [202, right, 'unknown'],
    [204, right, 'unknown'],
    [500, right, 'unknown'],
    [402, word('refused'), 'refused'],
    [409, word('refused'), 'refused'],
    [422, word('refused'), 'refused'],
    [200, word('refused'), 'unknown'],
    [400, word('refused'), 'unknown'],
    [500, word('refused'), 'unknown'],
    [502, word('not_applied'), 'unknown'],
    [500, word('not_applied'), 'unknown'],
    [404, word('not_applied'), 'unknown'],
    [429, word('not_applied'), 'not_applied'],
    [503, word('not_applied'), 'not_applied'],
    [401, word('not_applied'), 'not_applied'],
    [429, { key, code: 'why' }, 'unknown'],
    [503, {}, 'unknown'],
    [402, { key, outcome: 'refused' }, 'unknown'],
    [402, { ...word('refused'), code: 'No. Really' }, 'unknown'],
    [402, { ...word('refused'), key: 'other' }, 'unknown'],
    [402, { outcome: 'refused', code: 'why' }, 'unknown'],
    [429, { ...word('not_applied'), key: 'other' }, 'unknown'],
    [422, { code: 'key_reused', key }, 'unknown'],
    [404, word('absent'), 'unknown'],
    [201, { ...right, key: 'other' }, 'unknown'],
    [201, { ...right, amountCents: 6 }, 'unknown'],
    [201, { ...right, amountCents: '5' }, 'unknown'],
    [201, { ...right, amountCents: 5.5 }, 'unknown'],
    [201, { ...right, amountCents: -5 }, 'unknown'],
    [201, { ...right, amountCents: 2 ** 53 }, 'unknown'],
    [201, { ...right, currency: 'eur' }, 'unknown'],
    [201, { ...right, paymentId: '' }, 'unknown'],
    [201, { ...right, paymentId: 'x'.repeat(101) }, 'unknown'],
    [201, { ...right, paymentId: 'nul\0' }, 'unknown'],
    [201, { ...right, paymentId: '\ud800' }, 'unknown'],
    [201, { ...right, paymentId: null }, 'unknown'],
    [201, [right], 'unknown'],
    [201, null, 'unknown'],
    [201, 'ok', 'unknown'],
  ])('with status %i and %j is %s', (status, body, outcome) => {
    expect(callOutcome(response(status, body), expected).outcome).toBe(outcome);
  });

  test('carries what is stated only if it is well formed and differs from the request', () => {
    const other = callOutcome(response(201, { ...right, amountCents: 6 }), expected);
    expect(other).toEqual({
      outcome: 'unknown',
      reason: 'another amount',
      stated: { ...result, amountCents: 6 },
    });
    const broken = callOutcome(response(201, { ...right, currency: 6 }), expected);
    expect(broken).toEqual({
      outcome: 'unknown',
      reason: 'response 201 does not match the contract',
    });
  });

  test('names the code of a response that states no outcome', () => {
    expect(callOutcome(response(422, { code: 'key_reused', key }), expected)).toEqual({
      outcome: 'unknown',
      reason: 'response 422 key_reused states no outcome',
    });
  });
});

describe('the outcome of a look-up', () => {
  test.each([
    [200, right, 'found'],
    [201, right, 'unknown'],
    [404, word('absent'), 'absent'],
    [404, {}, 'unknown'],
    [404, { ...word('absent'), key: 'other' }, 'unknown'],
    [404, { outcome: 'absent', code: 'why' }, 'unknown'],
    [200, word('absent'), 'unknown'],
    [410, word('absent'), 'unknown'],
    [402, word('refused'), 'unknown'],
    [429, word('not_applied'), 'unknown'],
    [200, { ...right, amountCents: 6 }, 'unknown'],
  ])('with status %i and %j is %s', (status, body, outcome) => {
    expect(lookUpOutcome(response(status, body), expected).outcome).toBe(outcome);
  });
});

describe('the outcome of a cancel by key', () => {
  const done = { outcome: 'already_done', key, result: right };
  test.each([
    [200, { outcome: 'cancelled', key }, 'cancelled'],
    [200, { outcome: 'cancelled', key: 'other' }, 'unknown'],
    [200, { outcome: 'cancelled' }, 'unknown'],
    [201, { outcome: 'cancelled', key }, 'unknown'],
    [404, { outcome: 'cancelled', key }, 'unknown'],
    [404, word('absent'), 'unknown'],
    [200, done, 'already_done'],
    [409, done, 'unknown'],
    [200, { ...done, key: 'other' }, 'unknown'],
    [200, { ...done, result: undefined }, 'unknown'],
    [200, { ...done, result: { ...right, amountCents: 'all' } }, 'unknown'],
  ])('with status %i and %j is %s', (status, body, outcome) => {
    expect(cancelOutcome(response(status, body), expected).outcome).toBe(outcome);
  });

  const other = { ...done, result: { ...right, amountCents: 3 } };

  test('has the amount that the provider states, whatever was requested', () => {
    expect(cancelOutcome(response(200, other), { key, result: capture })).toEqual({
      outcome: 'already_done',
      result: { ...result, amountCents: 3 },
    });
  });

  test('is unknown if what was done must agree with the request, and does not', () => {
    expect(cancelOutcome(response(200, other), expected)).toEqual({
      outcome: 'unknown',
      reason: 'another amount',
      stated: { ...result, amountCents: 3 },
    });
  });
});

test('no response is taken for more than it states, nor makes a call throw', () => {
  const body = fc.oneof(
    fc.jsonValue(),
    fc.record(
      {
        key: fc.constantFrom<unknown>(key, 'other', 1, null),
        outcome: fc.constantFrom('refused', 'not_applied', 'absent', 'cancelled', 'already_done'),
        code: fc.constantFrom<unknown>('why', 'Why', '', 7),
        paymentId: fc.constantFrom<unknown>('pay_1', '', '\0', 1),
        amountCents: fc.constantFrom<unknown>(5, 6, '5', 5.5, null),
        currency: fc.constantFrom<unknown>('EUR', 'eur', ''),
        result: fc.constantFrom<unknown>(right, {}, null),
      },
      { requiredKeys: [] },
    ),
  );
  const status = fc.constantFrom(200, 201, 204, 302, 400, 402, 404, 409, 422, 429, 500, 503);
  fc.assert(
    fc.property(status, body, (status, body) => {
      const given = response(status, body);
      const called = callOutcome(given, expected);
      const looked = lookUpOutcome(given, expected);
      const cancelled = cancelOutcome(given, expected);
      const says = (fields: object) => expect(body).toMatchObject({ key, ...fields });
      if (called.outcome === 'ok') says(right);
      if (called.outcome === 'refused') says({ outcome: 'refused', code: 'why' });
      if (called.outcome === 'not_applied') says({ outcome: 'not_applied', code: 'why' });
      if (looked.outcome === 'found') says(right);
      if (looked.outcome === 'absent') says({ outcome: 'absent', code: 'why' });
      if (cancelled.outcome === 'cancelled') says({ outcome: 'cancelled' });
      if (cancelled.outcome === 'already_done') says({ outcome: 'already_done', result: right });
    }),
    { numRuns: 5_000 },
  );
});
