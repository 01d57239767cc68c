import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { faults } from '#dev/provider-simulator/faults.ts';
import { operations } from '#dev/provider-simulator/contract.ts';
import { startSimulator } from '#test/support/simulator.ts';
import { get, post } from './provider-simulator-support.ts';

const CAPTURES = '/payments/captures';
const REFUNDS = '/payments/refunds';
const SHIPMENTS = '/shipping/shipments';
const capture = { orderId: 'o1', amountCents: 1999, currency: 'EUR' };
const parcel = { orderId: 'o1', items: [{ sku: 'A', quantity: 2 }] };

const refused = (code: string) => ({ status: 422, body: { outcome: 'refused', code } });

describe('the contract of the providers', () => {
  test('takes money, finds it, gives it back and ships', async () => {
    await using simulator = await startSimulator();
    const { url } = simulator;
    const taken = await post(url, CAPTURES, 'c1', capture);
    expect(taken).toMatchObject({ status: 201, body: { key: 'c1', ...capture } });
    const { paymentId } = taken.body;
    expect((await get(url, `${CAPTURES}/c1`)).text).toBe(taken.text);

    const half = { orderId: 'o1', paymentId, amountCents: 999, currency: 'EUR' };
    const given = await post(url, REFUNDS, 'r1', half);
    expect(given).toMatchObject({ status: 201, body: { key: 'r1', ...half } });
    expect((await get(url, `${REFUNDS}/r1`)).text).toBe(given.text);

    const sent = await post(url, SHIPMENTS, 's1', parcel);
    expect(sent).toMatchObject({ status: 201, body: { key: 's1', orderId: 'o1' } });
    expect((await get(url, `${SHIPMENTS}/s1`)).text).toBe(sent.text);

    const effects = (await simulator.control.ledger()).map(({ effect, key, amountCents }) => ({
      effect,
      key,
      amountCents,
    }));
    expect(effects).toEqual([
      { effect: 'capture', key: 'c1', amountCents: 1999 },
      { effect: 'refund', key: 'r1', amountCents: 999 },
      { effect: 'shipment', key: 's1' },
    ]);
  });

  test.each([CAPTURES, REFUNDS, SHIPMENTS])(
    'says that a fresh key of %s is absent',
    async (path) => {
      await using simulator = await startSimulator();
      const response = await get(simulator.url, `${path}/none`);
      expect(response).toMatchObject({ status: 404, body: { outcome: 'absent', key: 'none' } });
    },
  );

  test.each([
    [CAPTURES, capture, 'capture', 402, 'card_declined'],
    [SHIPMENTS, parcel, 'ship', 422, 'carrier_refused'],
  ] as const)('refuses on %s for good', async (path, body, operation, status, code) => {
    await using simulator = await startSimulator();
    await simulator.control.addFault({ fault: 'refuse', operation, times: 1 });
    const refused = await post(simulator.url, path, 'k', body);
    expect(refused).toMatchObject({ status, body: { outcome: 'refused', code, key: 'k' } });
    expect((await post(simulator.url, path, 'k', body)).text).toBe(refused.text);
    expect((await simulator.control.ledger()).map(({ effect }) => effect)).toEqual(['refusal']);
  });

  test.each([
    [CAPTURES, capture],
    [SHIPMENTS, parcel],
  ])('cancels a fresh key of %s for ever', async (path, body) => {
    await using simulator = await startSimulator();
    const cancel = () => post(simulator.url, `${path}/k/cancel`, undefined, { orderId: 'o1' });
    expect(await cancel()).toMatchObject({ status: 200, body: { outcome: 'cancelled', key: 'k' } });
    expect(await cancel()).toMatchObject({ status: 200, body: { outcome: 'cancelled', key: 'k' } });
    expect(await post(simulator.url, path, 'k', body)).toMatchObject({
      status: 409,
      body: { outcome: 'refused', code: 'key_cancelled', key: 'k' },
    });
    expect((await get(simulator.url, `${path}/k`)).status).toBe(404);
    expect((await simulator.control.ledger()).map(({ effect }) => effect)).toEqual(['tombstone']);
  });

  test.each([
    [CAPTURES, capture],
    [SHIPMENTS, parcel],
  ])('says what was done when a cancel on %s comes too late', async (path, body) => {
    await using simulator = await startSimulator();
    const done = await post(simulator.url, path, 'k', body);
    expect(
      await post(simulator.url, `${path}/k/cancel`, undefined, { orderId: 'o1' }),
    ).toMatchObject({
      status: 200,
      body: { outcome: 'already_done', key: 'k', result: done.body },
    });
  });

  test('refuses a refund above what is left, in another currency, or of nothing', async () => {
    await using simulator = await startSimulator();
    const { url } = simulator;
    const { paymentId } = (await post(url, CAPTURES, 'c1', capture)).body;
    const refund = (key: string, change: object) =>
      post(url, REFUNDS, key, { ...capture, paymentId, ...change });
    expect((await refund('r1', { amountCents: 1000 })).status).toBe(201);
    expect(await refund('r2', { amountCents: 1000 })).toMatchObject(
      refused('refund_exceeds_capture'),
    );
    expect((await refund('r3', { amountCents: 999 })).status).toBe(201);
    expect(await refund('r4', { amountCents: 1 })).toMatchObject(refused('refund_exceeds_capture'));
    expect(await refund('r5', { currency: 'USD', amountCents: 0 })).toMatchObject(
      refused('refund_in_other_currency'),
    );
    expect(await refund('r6', { paymentId: 'pay_0' })).toMatchObject(refused('payment_not_found'));
  });

  test.each([
    [CAPTURES, undefined, capture],
    [CAPTURES, 'k'.repeat(256), capture],
    [CAPTURES, 'k', 'not json'],
    [CAPTURES, 'k', ''],
    [CAPTURES, 'k', { ...capture, amountCents: -1 }],
    [CAPTURES, 'k', { ...capture, amountCents: 19.99 }],
    [CAPTURES, 'k', { ...capture, amountCents: '1999' }],
    [CAPTURES, 'k', { ...capture, currency: 'eur' }],
    [CAPTURES, 'k', { ...capture, tip: 1 }],
    [CAPTURES, 'k', { ...capture, orderId: 'x'.repeat(300_000) }],
    [SHIPMENTS, 'k', { ...parcel, items: [] }],
    [`${CAPTURES}/k/cancel`, undefined, {}],
  ])('turns away a wrong request to %s (%#) and does nothing', async (path, key, body) => {
    await using simulator = await startSimulator();
    const response = await post(simulator.url, path, key, body);
    expect(response).toMatchObject({ status: 400, body: { outcome: 'not_applied' } });
    expect(await simulator.control.ledger()).toEqual([]);
  });

  test.each([
    ['GET', CAPTURES],
    ['POST', `${CAPTURES}/k`],
    ['POST', `${REFUNDS}/k/cancel`],
    ['GET', `${CAPTURES}/k/cancel`],
    ['GET', `${CAPTURES}/k/cancel/more`],
    ['GET', '/'],
  ])('has no route %s %s', async (method, path) => {
    await using simulator = await startSimulator();
    expect((await fetch(simulator.url + path, { method })).status).toBe(404);
  });
});

describe('a key', () => {
  test('gives the same response to the same body, whatever the order of its fields', async () => {
    await using simulator = await startSimulator();
    const first = await post(simulator.url, CAPTURES, 'k', capture);
    const turned = Object.fromEntries(Object.entries(capture).toReversed());
    const again = await post(simulator.url, CAPTURES, 'k', turned);
    expect(again).toEqual(first);
    expect(await simulator.control.ledger()).toHaveLength(1);
  });

  test.each([{ amountCents: 2000 }, { currency: 'USD' }, { orderId: 'o2' }])(
    'is refused another body: %o',
    async (change) => {
      await using simulator = await startSimulator();
      await post(simulator.url, CAPTURES, 'k', capture);
      const response = await post(simulator.url, CAPTURES, 'k', { ...capture, ...change });
      expect(response).toMatchObject({ status: 422, body: { code: 'key_reused', key: 'k' } });
      expect(response.body).not.toHaveProperty('outcome');
      expect(await simulator.control.ledger()).toHaveLength(1);
    },
  );

  test('has one effect however many calls race, fail and land late', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: ['late_error', 'hold'], operation: 'capture', times: 10 });
    const racing = Array.from({ length: 50 }, () => post(url, CAPTURES, 'k', capture));
    await control.nextCall({ operation: 'capture' }, 49);
    expect(await control.release()).toBe(10);
    const responses = await Promise.all(racing);
    const done = responses.filter(({ status }) => status === 201).map(({ text }) => text);
    expect(done.length).toBeGreaterThanOrEqual(40);
    expect(new Set(done).size).toBe(1);
    expect(await control.ledger()).toHaveLength(1);
  });

  test('is either captured or cancelled when both race, and stays so', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({
      fault: 'late_error',
      operation: 'capture',
      probability: 0.5,
      seed: 7,
    });
    const keys = Array.from({ length: 100 }, (_, each) => `k${each}`);
    const both = async (key: string) => {
      const acts = [
        () => post(url, CAPTURES, key, capture),
        () => post(url, `${CAPTURES}/${key}/cancel`, undefined, { orderId: 'o1' }),
      ];
      if (Number(key.slice(1)) % 2 === 0) acts.reverse();
      await Promise.all(acts.map((act) => act()));
    };
    await Promise.all(keys.map((key) => both(key)));
    const settled = await control.ledger();
    expect(new Set(settled.map(({ key }) => key)).size).toBe(keys.length);
    expect(settled).toHaveLength(keys.length);
    expect(new Set(settled.map(({ effect }) => effect))).toEqual(new Set(['capture', 'tombstone']));

    expect(await control.release()).toBeGreaterThan(0);
    expect(await control.ledger()).toEqual(settled);
  });

  test('leaves a refund race with no more than was captured', async () => {
    await using simulator = await startSimulator();
    const { paymentId } = (await post(simulator.url, CAPTURES, 'c', capture)).body;
    const refund = (key: string) =>
      post(simulator.url, REFUNDS, key, { ...capture, paymentId, amountCents: 500 });
    const responses = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((key) => refund(key)));
    expect(responses.filter(({ status }) => status === 201)).toHaveLength(3);
    expect(responses.filter(({ status }) => status === 422)).toHaveLength(2);
  });
});

describe('a fault', () => {
  test('meets the next calls it selects, in the order of the rules, then no more', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'error_before', key: 'order-1/', times: 1 });
    await control.addFault({ fault: 'too_many', orderId: 'o1', times: 1, retryAfterSeconds: 7 });
    const statuses: number[] = [];
    const call = async (key: string, orderId: string) =>
      statuses.push((await post(url, CAPTURES, key, { ...capture, orderId })).status);
    await call('order-2/c', 'o2');
    await call('order-1/c', 'o1');
    await call('order-1/c', 'o1');
    await call('order-1/c', 'o1');
    expect(statuses).toEqual([201, 500, 429, 201]);
    const calls = await control.calls({ key: 'order-1/' });
    expect(calls.map(({ number, attempt }) => ({ number, attempt }))).toEqual([
      { number: 2, attempt: 1 },
      { number: 3, attempt: 2 },
      { number: 4, attempt: 3 },
    ]);
  });

  test('selects a look-up by the order of its key', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'error_before', operation: 'look_up_capture', orderId: 'o1' });
    await post(url, CAPTURES, 'a', { ...capture, orderId: 'o1' });
    await post(url, CAPTURES, 'b', { ...capture, orderId: 'o2' });
    expect((await get(url, `${CAPTURES}/a`)).status).toBe(500);
    expect((await get(url, `${CAPTURES}/b`)).status).toBe(200);
    await control.clearFaults();
    expect((await get(url, `${CAPTURES}/a`)).status).toBe(200);
  });

  test('is drawn alike from one seed, in whatever order the calls come', async () => {
    const keys = Array.from({ length: 60 }, (_, each) => `k${each}`);
    const schedule = async (seed: number, ordered: readonly string[]) => {
      await using simulator = await startSimulator();
      const { url, control } = simulator;
      await control.addFault({ fault: ['error_before', 'too_many'], probability: 0.5, seed });
      const statuses = new Map<string, number>();
      for (const key of ordered)
        statuses.set(key, (await post(url, CAPTURES, key, capture)).status);
      return keys.map((key) => statuses.get(key));
    };
    const drawn = await schedule(1, keys);
    expect(new Set(drawn)).toEqual(new Set([201, 429, 500]));
    expect(await schedule(1, keys.toReversed())).toEqual(drawn);
    expect(await schedule(2, keys)).not.toEqual(drawn);
  });

  test('is drawn alike for an order whatever its keys', async () => {
    const schedule = async (key: string) => {
      await using simulator = await startSimulator();
      const { url, control } = simulator;
      const fault = ['error_before', 'too_many'] as const;
      await control.addFault({ orderId: 'o1', fault: [...fault], probability: 0.9, seed: 5 });
      const statuses: number[] = [];
      for (let attempt = 0; attempt < 20; attempt += 1)
        statuses.push((await post(url, CAPTURES, key, capture)).status);
      return statuses;
    };
    const drawn = await schedule('one');
    expect(new Set(drawn).size).toBeGreaterThan(1);
    expect(await schedule('another')).toEqual(drawn);
  });

  test('that is late lands on a release and not before', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'late_error', times: 1 });
    expect((await post(url, CAPTURES, 'k', capture)).status).toBe(500);
    expect((await get(url, `${CAPTURES}/k`)).status).toBe(404);
    expect(await control.release({ key: 'other' })).toBe(0);
    expect(await control.ledger()).toEqual([]);
    expect(await control.release({ key: 'k' })).toBe(1);
    expect((await get(url, `${CAPTURES}/k`)).status).toBe(200);
    expect(await control.release()).toBe(0);
  });

  test('that is late lands by itself where it is told when', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'hold', operation: 'capture', lateMs: 20, times: 1 });
    expect((await post(url, CAPTURES, 'k', capture)).status).toBe(201);
  });

  test('that is late finds a cancelled key closed', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'late_error', operation: 'capture', times: 1 });
    await post(url, CAPTURES, 'k', capture);
    await post(url, `${CAPTURES}/k/cancel`, undefined, { orderId: 'o1' });
    await control.release();
    expect((await control.ledger()).map(({ effect }) => effect)).toEqual(['tombstone']);
  });

  test.each([
    { fault: 'no_such_fault' },
    { fault: 'constructor' },
    { fault: [] },
    { fault: 'hold', operation: 'charge' },
    { fault: 'hold', times: 0 },
    { fault: 'hold', probability: 1.1 },
    { fault: 'hold', amount: 1 },
    {},
  ])('that does not exist is turned away: %o', async (rule) => {
    await using simulator = await startSimulator();
    expect((await post(simulator.url, '/faults', undefined, rule)).status).toBe(400);
  });
});

test('a call can be waited for before it comes', async () => {
  await using simulator = await startSimulator();
  const { url, control } = simulator;
  const waiting = control.nextCall({ operation: 'refund', orderId: 'o1' });
  await post(url, CAPTURES, 'c', capture);
  await post(url, REFUNDS, 'r', { ...capture, paymentId: 'pay_0' });
  expect(await waiting).toMatchObject({ number: 2, operation: 'refund', key: 'r', attempt: 1 });
});

test('the document of the contract names every operation and every fault', async () => {
  const text = await readFile(new URL('../../docs/providers.md', import.meta.url), 'utf8');
  const missing = [...operations, ...Object.keys(faults)].filter(
    (name) => !text.includes(`\`${name}\``),
  );
  expect(missing).toEqual([]);
});
