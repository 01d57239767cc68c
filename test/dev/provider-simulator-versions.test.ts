import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { digestOf, pack } from '#dev/provider-simulator/contents.ts';
import { createProviderSimulator } from '#dev/provider-simulator/provider-simulator.ts';
import { createCanaries } from '#test/support/canaries.ts';
import { startSimulator } from '#test/support/simulator.ts';
import { createTestFolder } from '#test/support/test-folder.ts';
import { get, post } from './provider-simulator-support.ts';

const CAPTURES = ['/payments/captures', '/v2/payments/captures'] as const;
const REFUNDS = ['/payments/refunds', '/v2/payments/refunds'] as const;
const SHIPMENTS = ['/shipping/shipments', '/v2/shipping/shipments'] as const;

const capture = { orderId: 'o1', amountCents: 1999, currency: 'EUR' };
const paying = { ...capture, paymentMethod: 'pm_card_ok' };
const shipment = {
  orderId: 'o1',
  items: [
    { sku: 'A', quantity: 2 },
    { sku: 'B', quantity: 1 },
  ],
};
const address = { name: 'Ada', line1: 'Way 1', postalCode: '1', city: 'Ulm', country: 'DE' };
const sending = {
  orderId: 'o1',
  items: [
    { lineId: '1', sku: 'A', name: 'Lamp', quantity: 2 },
    { lineId: '2', sku: 'B', quantity: 1 },
  ],
  shippingAddress: address,
  contact: { email: 'ada@example.com', phone: '+49 1' },
};

/** Each version first, then the other. */
const orders = [
  { first: 0, second: 1 },
  { first: 1, second: 0 },
] as const;

describe('version 2', () => {
  test('takes money with a payment method, finds it, gives it back and ships', async () => {
    await using simulator = await startSimulator();
    const { url } = simulator;
    const taken = await post(url, CAPTURES[1], 'c', paying);
    expect(taken).toMatchObject({ status: 201, body: { key: 'c', ...capture } });
    expect((await get(url, `${CAPTURES[1]}/c`)).text).toBe(taken.text);
    const back = { ...capture, paymentId: taken.body.paymentId };
    expect(await post(url, REFUNDS[1], 'r', back)).toMatchObject({ status: 201, body: back });
    const sent = await post(url, SHIPMENTS[1], 's', sending);
    const trackingNumber = expect.stringMatching(/^SIM/);
    const parcels = [{ trackingNumber, carrier: 'Simulated Post' }];
    expect(sent).toEqual({
      status: 201,
      text: sent.text,
      body: { key: 's', orderId: 'o1', parcels },
    });
    expect((await get(url, `${SHIPMENTS[1]}/s`)).text).toBe(sent.text);
    const calls = await simulator.control.calls();
    expect(calls.map(({ contract }) => contract)).toEqual([2, 2, 2, 2, 2]);
  });

  test('has room for the longest texts that an order may have', async () => {
    await using simulator = await startSimulator();
    const { url } = simulator;
    const long = '\u{1f4e6}'.repeat(200);
    const texts = { name: long, line1: long, line2: long, city: long, region: long };
    const shippingAddress = { ...address, ...texts };
    const sent = await post(url, SHIPMENTS[1], 's', { ...sending, shippingAddress });
    expect(sent.status).toBe(201);
    const paymentMethod = `pm_${'\u{1f4b6}'.repeat(252)}`;
    expect((await post(url, CAPTURES[1], 'c', { ...capture, paymentMethod })).status).toBe(201);
  });

  test('takes money without a payment method, which orders from before it do not have', async () => {
    await using simulator = await startSimulator();
    const taken = await post(simulator.url, CAPTURES[1], 'k', capture);
    expect(taken).toMatchObject({ status: 201, body: capture });
  });

  test.each([
    ['pm_decline_soft', 402, 'card_declined'],
    ['card_ok', 422, 'payment_method_unknown'],
  ])('refuses the payment method %s for good', async (paymentMethod, status, code) => {
    await using simulator = await startSimulator();
    const body = { ...capture, paymentMethod };
    const refused = await post(simulator.url, CAPTURES[1], 'k', body);
    expect(refused).toMatchObject({ status, body: { outcome: 'refused', code, key: 'k' } });
    expect((await post(simulator.url, CAPTURES[1], 'k', body)).text).toBe(refused.text);
    expect((await simulator.control.ledger()).map(({ effect }) => effect)).toEqual(['refusal']);
  });

  test.each([
    [CAPTURES[0], paying],
    [SHIPMENTS[0], sending],
    [SHIPMENTS[0], { ...shipment, shippingAddress: address }],
    [SHIPMENTS[0], { ...shipment, contact: {} }],
    [CAPTURES[1], { ...paying, paymentMethod: '' }],
    [CAPTURES[1], { ...paying, paymentMethod: 'x'.repeat(256) }],
    [CAPTURES[1], { ...paying, shippingAddress: address }],
    [SHIPMENTS[1], { ...sending, paymentMethod: 'pm_card_ok' }],
    [SHIPMENTS[1], { ...sending, shippingAddress: { ...address, country: 'Germany' } }],
    [SHIPMENTS[1], { ...sending, shippingAddress: { ...address, street: 'x' } }],
    [REFUNDS[1], { ...paying, paymentId: 'p' }],
  ])('has fields that are turned away at %s (%#)', async (path, body) => {
    await using simulator = await startSimulator();
    const response = await post(simulator.url, path, 'k', body);
    expect(response).toMatchObject({ status: 400, body: { code: 'invalid_request', key: 'k' } });
    expect(response.text).not.toMatch(/Ada|Germany|pm_card/);
    expect(await simulator.control.ledger()).toEqual([]);
  });

  test.each(['/v1/payments/captures', '/v2', '/v2/', '/v2/v2/payments/captures', '/v2/ledger'])(
    'has no route %s',
    async (path) => {
      await using simulator = await startSimulator();
      expect((await post(simulator.url, path, 'k', capture)).status).toBe(404);
    },
  );
});

describe('several parcels', () => {
  test('hold together what was asked for', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'split', times: 1 });
    const sent = await post(url, SHIPMENTS[1], 's', sending);
    const contents = sent.body.parcels.map(({ items }: { items: unknown }) => items);
    expect(contents).toEqual([
      [
        { lineId: '1', quantity: 1 },
        { lineId: '2', quantity: 1 },
      ],
      [{ lineId: '1', quantity: 1 }],
    ]);
    expect((await get(url, `${SHIPMENTS[1]}/s`)).text).toBe(sent.text);
    const [entry] = await control.ledger();
    expect(entry?.parcels).toEqual(sent.body.parcels);
  });

  test('are never more than there are pieces, none is empty, and nothing is lost', () => {
    const items = fc
      .array(fc.integer({ min: 1, max: 1_000 }), { minLength: 1, maxLength: 20 })
      .map((quantities) =>
        quantities.map((quantity, line) => ({ lineId: `${line + 1}`, sku: 'A', quantity })),
      );
    fc.assert(
      fc.property(items, fc.integer({ min: 2, max: 100 }), (asked, count) => {
        const parcels = pack(asked, count);
        const pieces = asked.reduce((sum, { quantity }) => sum + quantity, 0);
        expect(parcels).toHaveLength(Math.min(count, pieces));
        const packed = new Map<string, number>();
        for (const { items: inside = [] } of parcels) {
          expect(inside).not.toEqual([]);
          for (const { lineId, quantity } of inside) {
            packed.set(lineId, (packed.get(lineId) ?? 0) + quantity);
          }
        }
        expect(packed).toEqual(new Map(asked.map(({ lineId, quantity }) => [lineId, quantity])));
        expect(new Set(parcels.map((each) => each.trackingNumber)).size).toBe(parcels.length);
      }),
    );
  });

  test('are one without line ids, and in version 1', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'split' });
    const sent = await post(url, SHIPMENTS[1], 'a', shipment);
    expect(sent.body.parcels).toHaveLength(1);
    const sentIn1 = await post(url, SHIPMENTS[0], 'b', shipment);
    expect(sentIn1.body.trackingNumber).toMatch(/^SIM/);
    expect((await control.calls({ key: 'b' })).length).toBe(1);
  });

  test('cannot be stated in version 1, so no outcome is', async () => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: 'split', times: 1 });
    await post(url, SHIPMENTS[1], 's', sending);
    const wordless = { status: 409, body: { code: 'several_parcels', key: 's' } };
    const responses = [
      await post(url, SHIPMENTS[0], 's', shipment),
      await get(url, `${SHIPMENTS[0]}/s`),
      await post(url, `${SHIPMENTS[0]}/s/cancel`, undefined, { orderId: 'o1' }),
    ];
    for (const response of responses) {
      expect(response).toMatchObject(wordless);
      expect(response.body).not.toHaveProperty('outcome');
    }
    expect(await control.ledger()).toHaveLength(1);
  });
});

describe('a key is one effect in both versions', () => {
  test.each(orders)('for money: $first first, then $second', async ({ first, second }) => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    const bodies = [capture, paying];
    const taken = await post(url, CAPTURES[first], 'k', bodies[first]);
    expect(await get(url, `${CAPTURES[second]}/k`)).toMatchObject({
      status: 200,
      body: taken.body,
    });
    expect(await post(url, CAPTURES[second], 'k', bodies[second])).toEqual(taken);
    expect(
      await post(url, `${CAPTURES[second]}/k/cancel`, undefined, { orderId: 'o1' }),
    ).toMatchObject({ body: { outcome: 'already_done', result: taken.body } });

    const back = { ...capture, paymentId: taken.body.paymentId };
    const given = await post(url, REFUNDS[first], 'r', back);
    expect(await post(url, REFUNDS[second], 'r', back)).toEqual(given);
    expect((await get(url, `${REFUNDS[second]}/r`)).body).toEqual(given.body);
    expect((await control.ledger()).map(({ effect }) => effect)).toEqual(['capture', 'refund']);
  });

  test.each(orders)('for a parcel: $first first, then $second', async ({ first, second }) => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    const bodies = [shipment, sending];
    const sent = await post(url, SHIPMENTS[first], 'k', bodies[first]);
    const [entry, ...more] = await control.ledger();
    expect(more).toEqual([]);
    const parcel = entry!.parcels![0]!;
    const forms = [
      { key: 'k', orderId: 'o1', ...parcel },
      { key: 'k', orderId: 'o1', parcels: [parcel] },
    ] as const;
    expect(sent.body).toEqual(forms[first]);
    const cancel = await post(url, `${SHIPMENTS[second]}/k/cancel`, undefined, { orderId: 'o1' });
    expect(cancel.body).toEqual({ outcome: 'already_done', key: 'k', result: forms[second] });
    const other = await post(url, SHIPMENTS[second], 'k', bodies[second]);
    expect(other).toMatchObject({ status: 201, body: forms[second] });
    expect((await get(url, `${SHIPMENTS[second]}/k`)).body).toEqual(forms[second]);
    expect(await post(url, SHIPMENTS[first], 'k', bodies[first])).toEqual(sent);
    expect(await control.ledger()).toHaveLength(1);
  });

  test.each(orders)('also closed or refused: $first first, then $second', async (one) => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await post(url, `${CAPTURES[one.first]}/k/cancel`, undefined, { orderId: 'o1' });
    const closed = { status: 409, body: { outcome: 'refused', code: 'key_cancelled' } };
    expect(await post(url, CAPTURES[one.second], 'k', capture)).toMatchObject(closed);
    await control.addFault({ fault: 'refuse', times: 1 });
    const refused = await post(url, SHIPMENTS[one.first], 's', shipment);
    expect(refused.status).toBe(422);
    expect(await post(url, SHIPMENTS[one.second], 's', shipment)).toEqual(refused);
  });

  test.each(orders)('while both race: $first first, then $second', async ({ first, second }) => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await control.addFault({ fault: ['late_error', 'hold'], operation: 'ship', times: 4 });
    const bodies = [shipment, sending];
    const racing = Array.from({ length: 20 }, (_, each) => {
      const version = each % 2 === 0 ? first : second;
      return post(url, SHIPMENTS[version], 'k', bodies[version]);
    });
    await control.nextCall({ operation: 'ship' }, 19);
    await control.release();
    await Promise.all(racing);
    expect(await control.ledger()).toHaveLength(1);
  });

  test.each(orders)('with another content is reused: $first, then $second', async (one) => {
    await using simulator = await startSimulator();
    const { url, control } = simulator;
    await post(url, CAPTURES[one.first], 'k', capture);
    await post(url, SHIPMENTS[one.first], 'k', shipment);
    const reused = { status: 422, body: { code: 'key_reused', key: 'k' } };
    const other = { ...capture, amountCents: 2_000 };
    expect(await post(url, CAPTURES[one.second], 'k', other)).toMatchObject(reused);
    const fewer = { ...shipment, items: shipment.items.slice(1) };
    expect(await post(url, SHIPMENTS[one.second], 'k', fewer)).toMatchObject(reused);
    const turned = { ...shipment, items: shipment.items.toReversed() };
    expect(await post(url, SHIPMENTS[one.second], 'k', turned)).toMatchObject(reused);
    expect(await control.ledger()).toHaveLength(2);
  });

  test.each([
    [CAPTURES[1], paying, { ...paying, paymentMethod: 'pm_card_other' }],
    [CAPTURES[1], paying, capture],
    [SHIPMENTS[1], sending, { ...sending, shippingAddress: { ...address, line1: 'Way 2' } }],
    [SHIPMENTS[1], sending, { ...sending, contact: { phone: '+49 1' } }],
    [SHIPMENTS[1], sending, shipment],
  ])('of version 2 is held to all of its content at %s (%#)', async (path, body, other) => {
    await using simulator = await startSimulator();
    const { url } = simulator;
    const first = await post(url, path, 'k', body);
    const reused = { status: 422, body: { code: 'key_reused', key: 'k' } };
    expect(await post(url, path, 'k', other)).toMatchObject(reused);
    const turned = Object.fromEntries(Object.entries(body).toReversed());
    expect(await post(url, path, 'k', turned)).toEqual(first);
  });

  test('also if a release before version 2 has written the ledger', async () => {
    await using folder = await createTestFolder('simulator-');
    const ledgerFile = join(folder.path, 'ledger.jsonl');
    const stated = { key: 's', orderId: 'o1', trackingNumber: 'SIM1', carrier: 'Simulated Post' };
    const line = {
      number: 1,
      at: '2026-11-01T00:00:00.000Z',
      effect: 'shipment',
      operation: 'ship',
      key: 's',
      orderId: 'o1',
      attempt: 1,
      request: JSON.stringify(shipment),
      answer: { status: 201, body: stated },
    };
    await appendFile(ledgerFile, `${JSON.stringify(line)}\n`);
    const simulator = createProviderSimulator({ ledgerFile });
    const url = await simulator.listen();
    const parcels = [{ trackingNumber: 'SIM1', carrier: 'Simulated Post' }];
    const inVersion2 = { key: 's', orderId: 'o1', parcels };
    expect((await post(url, SHIPMENTS[1], 's', sending)).body).toEqual(inVersion2);
    expect((await get(url, `${SHIPMENTS[0]}/s`)).body).toEqual(stated);
    await simulator.close();
  });
});

test('the ledger shows what arrived, and neither a secret nor personal data', async () => {
  await using folder = await createTestFolder('simulator-');
  const ledgerFile = join(folder.path, 'ledger.jsonl');
  const simulator = createProviderSimulator({ ledgerFile });
  const url = await simulator.listen();
  const { at, foundIn } = createCanaries();
  const paymentMethod = `pm_${at('method')}`;
  const declined = `pm_decline_${at('declined')}`;
  const shippingAddress = {
    name: at('name'),
    line1: at('line1'),
    line2: at('line2'),
    postalCode: at('postalCode'),
    city: at('city'),
    region: at('region'),
    country: 'DE',
  };
  const contact = { email: `${at('email')}@example.com`, phone: at('phone') };
  await post(url, CAPTURES[1], 'c', { ...capture, paymentMethod });
  await post(url, CAPTURES[1], 'd', { ...capture, paymentMethod: declined });
  await post(url, SHIPMENTS[1], 's', { ...sending, shippingAddress, contact });
  const shown = await Promise.all(['/ledger', '/calls', '/faults'].map((path) => get(url, path)));
  await simulator.close();

  const written = await readFile(ledgerFile, 'utf8');
  expect(foundIn([written, ...shown.map(({ text }) => text)].join('\n'))).toEqual([]);
  const [captured, , sent] = shown[0]!.body.entries;
  expect(captured.details).toEqual({ paymentMethod: digestOf(paymentMethod) });
  expect(sent.details).toEqual({
    shippingAddress: { country: 'DE', digest: digestOf(shippingAddress) },
    contact: digestOf(contact),
    lines: [{ lineId: '1', name: 'Lamp' }, { lineId: '2' }],
  });
});
