import { describe, expect, test } from 'vitest';
import { canHappen, faults } from '#dev/provider-simulator/faults.ts';
import type { Fault, FaultName } from '#dev/provider-simulator/faults.ts';
import { operations } from '#dev/provider-simulator/contract.ts';
import type { Operation } from '#dev/provider-simulator/contract.ts';
import type { SimulatorClient } from '#dev/provider-simulator/simulator-client.ts';
import {
  createHttpPaymentProvider,
  createHttpShippingProvider,
} from '#src/fulfilment/providers/http-providers.ts';
import type { Providers } from '#src/fulfilment/providers/providers.ts';
import { startSimulator } from '#test/support/simulator.ts';

const connectionTo = (url: string) => ({ url, timeoutMs: 30_000, callsMax: 4 });
const versions = [1, 2] as const;

const order = { key: 'k', orderId: 'o1' };
const money = { amountCents: 1999, currency: 'EUR' };
const paying = { ...order, ...money, paymentMethod: 'pm_card_ok' };
const shipping = {
  ...order,
  items: [
    { lineId: '1', sku: 'A', name: 'Lamp', quantity: 2 },
    { lineId: '2', sku: 'B', quantity: 1 },
  ],
  shippingAddress: { name: 'Ada', line1: 'Way 1', postalCode: '1', city: 'Ulm', country: 'DE' },
  contact: { email: 'ada@example.com' },
};

function providersAt(url: string, version: 1 | 2): Providers {
  return {
    payments: createHttpPaymentProvider(connectionTo(url), version),
    shipping: createHttpShippingProvider(connectionTo(url), version),
  };
}

type Ask = (providers: Providers, signal: AbortSignal, paymentId: string) => Promise<object>;

/** How each operation is asked for on a ledger where `paymentId` was captured before. */
const asked: Record<Operation, Ask> = {
  capture: ({ payments }, signal) => payments.capture(paying, signal),
  look_up_capture: ({ payments }, signal) => payments.lookUpCapture(paying, signal),
  cancel_capture: ({ payments }, signal) => payments.cancelCapture(order, signal),
  refund: ({ payments }, signal, paymentId) =>
    payments.refund({ ...order, ...money, paymentId }, signal),
  look_up_refund: ({ payments }, signal, paymentId) =>
    payments.lookUpRefund({ ...order, ...money, paymentId }, signal),
  ship: (providers, signal) => providers.shipping.ship(shipping, signal),
  look_up_shipment: (providers, signal) => providers.shipping.lookUpShipment(shipping, signal),
  cancel_shipment: (providers, signal) => providers.shipping.cancelShipment(shipping, signal),
};

/** Makes one call go wrong; one that gets no response is given up once it has arrived. */
async function callUnder<Outcome>(
  control: SimulatorClient,
  { fault, operation }: Readonly<{ fault: FaultName; operation: Operation }>,
  call: (signal: AbortSignal) => Promise<Outcome>,
): Promise<Outcome> {
  await control.addFault({ fault, operation, times: 1 });
  const leaving = new AbortController();
  const outcome = call(leaving.signal);
  await control.nextCall({ key: 'k', operation });
  const { effect, response }: Fault = faults[fault];
  if (response === 'none' || effect === 'held') leaving.abort();
  return outcome;
}

/** The word of the port for an honest response to a key that nothing was done under. */
const rightOutcome: Record<Operation, string> = {
  capture: 'ok',
  look_up_capture: 'absent',
  cancel_capture: 'cancelled',
  refund: 'ok',
  look_up_refund: 'absent',
  ship: 'ok',
  look_up_shipment: 'absent',
  cancel_shipment: 'cancelled',
};

/** What the ports must make of each fault, for a call that acts and for one that asks or cancels. */
const expected: Record<FaultName, Readonly<{ acts: string; asks: string }>> = {
  none: { acts: 'right', asks: 'right' },
  refuse: { acts: 'refused', asks: 'impossible' },
  timeout_before: { acts: 'unknown', asks: 'unknown' },
  timeout_after: { acts: 'unknown', asks: 'unknown' },
  error_before: { acts: 'unknown', asks: 'unknown' },
  error_after: { acts: 'unknown', asks: 'unknown' },
  reset_before: { acts: 'unknown', asks: 'unknown' },
  reset_after: { acts: 'unknown', asks: 'unknown' },
  too_many: { acts: 'not_applied', asks: 'unknown' },
  unavailable: { acts: 'not_applied', asks: 'unknown' },
  overloaded_after: { acts: 'unknown', asks: 'unknown' },
  hold: { acts: 'unknown', asks: 'unknown' },
  late: { acts: 'unknown', asks: 'unknown' },
  late_error: { acts: 'unknown', asks: 'unknown' },
  late_reset: { acts: 'unknown', asks: 'unknown' },
  garbage: { acts: 'unknown', asks: 'unknown' },
  wrong_shape: { acts: 'unknown', asks: 'unknown' },
  html: { acts: 'unknown', asks: 'unknown' },
  empty: { acts: 'unknown', asks: 'unknown' },
  huge: { acts: 'unknown', asks: 'unknown' },
  cut_short: { acts: 'unknown', asks: 'unknown' },
  redirect: { acts: 'unknown', asks: 'unknown' },
  duplicate: { acts: 'right', asks: 'right' },
  other_key: { acts: 'unknown', asks: 'unknown' },
  other_amount: { acts: 'unknown', asks: 'impossible' },
  other_currency: { acts: 'unknown', asks: 'impossible' },
  // Asked about here is a key without money, of which there is nothing to misstate.
  misstated_amount: { acts: 'unknown', asks: 'right' },
  misstated_currency: { acts: 'unknown', asks: 'right' },
  split: { acts: 'right', asks: 'impossible' },
  misstated_parcels: { acts: 'unknown', asks: 'right' },
  repeated_parcel: { acts: 'unknown', asks: 'right' },
};

const acting = new Set<Operation>(['capture', 'refund', 'ship']);
const names = Object.keys(faults).filter((name): name is FaultName => name in faults);

const possible = versions.flatMap((version) =>
  names.flatMap((fault) =>
    operations.flatMap((operation) =>
      canHappen(fault, operation, version) ? [{ version, fault, operation }] : [],
    ),
  ),
);

describe('the outcome states what is known, and no more', () => {
  test.each(possible)('version $version: $fault at $operation', async (one) => {
    const { version, fault, operation } = one;
    await using simulator = await startSimulator();
    const providers = providersAt(simulator.url, version);
    const before = await providers.payments.capture({ ...paying, key: 'earlier' });
    const paymentId = before.outcome === 'ok' ? before.result.paymentId : '';

    const outcome = await callUnder(simulator.control, { fault, operation }, (signal) =>
      asked[operation](providers, signal, paymentId),
    );

    const word = expected[fault][acting.has(operation) ? 'acts' : 'asks'];
    const told = word === 'right' ? rightOutcome[operation] : word;
    expect(outcome).toMatchObject({ outcome: told });
    expect('reason' in outcome ? outcome.reason : 'none').toMatch(/^[\x20-\x7e]{1,200}$/);

    await simulator.control.release();
    const effects = (await simulator.control.ledger({ key: 'k' })).length;
    const never = fault.endsWith('_before') || told === 'not_applied' || fault === 'unavailable';
    const changes = acting.has(operation) || operation.startsWith('cancel_');
    expect(effects).toBe(changes && !never && fault !== 'too_many' ? 1 : 0);
  });
});

describe('after an unknown capture', () => {
  const unsettled = names.filter(
    (name) => expected[name].acts === 'unknown' && canHappen(name, 'capture'),
  );

  test.each(unsettled)('the same key is captured once, after %s', async (fault) => {
    await using simulator = await startSimulator();
    const payments = createHttpPaymentProvider(connectionTo(simulator.url));
    const request = paying;
    await callUnder(simulator.control, { fault, operation: 'capture' }, (signal) =>
      payments.capture(request, signal),
    );
    const again = await payments.capture(request);
    await simulator.control.release();
    const found = await payments.lookUpCapture(request);

    const [entry, ...more] = await simulator.control.ledger({ key: 'k' });
    expect(more).toEqual([]);
    const honest = entry!.amountCents === 1999 && entry!.currency === 'EUR';
    expect(again.outcome).toBe(honest ? 'ok' : 'unknown');
    expect(found.outcome).toBe(honest ? 'found' : 'unknown');
  });

  const happened = unsettled.filter((name) =>
    ['now', 'other_amount', 'other_currency'].includes(faults[name].effect),
  );
  const open = unsettled.filter((name) => !happened.includes(name));

  test.each(happened)(
    'a cancel by key states what there is to give back, after %s',
    async (fault) => {
      await using simulator = await startSimulator();
      const payments = createHttpPaymentProvider(connectionTo(simulator.url));
      await callUnder(simulator.control, { fault, operation: 'capture' }, (signal) =>
        payments.capture(paying, signal),
      );
      const cancelled = await payments.cancelCapture(order);

      const [captured] = await simulator.control.ledger({ key: 'k' });
      const { amountCents = 0, currency = '', paymentId = '' } = captured!;
      const result = { amountCents, currency, paymentId };
      expect(cancelled).toEqual({ outcome: 'already_done', result });
      const refund = { key: 'r', orderId: 'o1', ...result };
      expect(await payments.refund(refund)).toMatchObject({ outcome: 'ok', result });
    },
  );

  test.each(open)(
    'a cancel by key closes it, whatever takes effect later, after %s',
    async (fault) => {
      await using simulator = await startSimulator();
      const payments = createHttpPaymentProvider(connectionTo(simulator.url));
      await callUnder(simulator.control, { fault, operation: 'capture' }, (signal) =>
        payments.capture(paying, signal),
      );
      expect(await payments.cancelCapture(order)).toEqual({ outcome: 'cancelled' });
      await simulator.control.release();
      const effects = (await simulator.control.ledger()).map(({ effect }) => effect);
      expect(effects).toEqual(['tombstone']);
      const again = await payments.capture(paying);
      expect(again).toEqual({ outcome: 'refused', reason: 'key_cancelled' });
    },
  );
});

test('a look-up that finds nothing does not exclude a capture that takes effect later', async () => {
  await using simulator = await startSimulator();
  const payments = createHttpPaymentProvider(connectionTo(simulator.url));
  const request = paying;
  await simulator.control.addFault({ fault: 'late_error', operation: 'capture', times: 1 });
  await payments.capture(request);
  expect(await payments.lookUpCapture(request)).toEqual({ outcome: 'absent' });
  await simulator.control.release();
  expect(await payments.lookUpCapture(request)).toMatchObject({ outcome: 'found', result: money });
});

test.each([
  ['other_amount', { amountCents: 999, currency: 'EUR' }],
  ['other_currency', { amountCents: 1999, currency: 'XTS' }],
  ['misstated_amount', { amountCents: 999, currency: 'EUR' }],
  ['misstated_currency', { amountCents: 1999, currency: 'XTS' }],
] as const)('%s is carried along and not believed', async (fault, stated) => {
  await using simulator = await startSimulator();
  const payments = createHttpPaymentProvider(connectionTo(simulator.url));
  await simulator.control.addFault({ fault, operation: 'capture', times: 1 });
  const outcome = await payments.capture(paying);
  expect(outcome).toMatchObject({ outcome: 'unknown', stated });
  expect(outcome).toMatchObject({
    reason: `the provider states ${stated.amountCents} ${stated.currency} where 1999 EUR was asked for`,
  });
});

test('the wait that a provider asks for is passed on, and bounded', async () => {
  await using simulator = await startSimulator();
  const payments = createHttpPaymentProvider(connectionTo(simulator.url));
  const request = paying;
  await simulator.control.addFault({ fault: 'too_many', times: 1, retryAfterSeconds: 7 });
  expect(await payments.capture(request)).toEqual({
    outcome: 'not_applied',
    reason: 'too_many_requests',
    retryAfterMs: 7_000,
  });
  await simulator.control.addFault({ fault: 'overloaded_after', times: 1, retryAfterSeconds: 9e9 });
  expect(await payments.capture(request)).toEqual({
    outcome: 'unknown',
    reason: 'response 503 is not JSON',
  });
  await simulator.control.addFault({ fault: 'unavailable', times: 1, retryAfterSeconds: 9e8 });
  expect(await payments.capture(request)).toMatchObject({ retryAfterMs: 3_600_000 });
});

test('a response that comes twice is not taken for the response to a later call', async () => {
  await using simulator = await startSimulator();
  const payments = createHttpPaymentProvider({ ...connectionTo(simulator.url), callsMax: 1 });
  await simulator.control.addFault({ fault: 'duplicate', operation: 'capture', times: 5 });
  const told = new Map<string, string>();
  // The later call on the same connection is among these; the client decides which it is.
  for (const key of ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j']) {
    const outcome = await payments.capture({ ...paying, key, orderId: key });
    told.set(key, outcome.outcome === 'ok' ? outcome.result.paymentId : outcome.outcome);
  }
  const paid = (await simulator.control.ledger()).map(({ key, paymentId = '' }) => ({
    key,
    paymentId,
  }));
  expect(paid).toHaveLength(10);
  const wrong = paid.filter(
    ({ key, paymentId }) => ![paymentId, 'unknown'].includes(told.get(key)!),
  );
  expect(wrong).toEqual([]);
  expect([...told.values()]).toContain('unknown');
});

test('a key may have any character with a meaning in paths', async () => {
  await using simulator = await startSimulator();
  const payments = createHttpPaymentProvider(connectionTo(simulator.url));
  const request = { ...paying, key: 'a/b?c=d#e%2f..&"f' };
  expect(await payments.capture(request)).toMatchObject({ outcome: 'ok' });
  expect(await payments.lookUpCapture(request)).toMatchObject({ outcome: 'found' });
  expect(await payments.cancelCapture(request)).toMatchObject({ outcome: 'already_done' });
});
