import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { digestOf } from '#dev/provider-simulator/contents.ts';
import {
  createHttpPaymentProvider,
  createHttpShippingProvider,
} from '#src/fulfilment/providers/http-providers.ts';
import { createCanaries } from '#test/support/canaries.ts';
import { startSimulator } from '#test/support/simulator.ts';
import { startScriptedProvider } from './scripted-provider.ts';

type Version = 1 | 2;

const paying = {
  key: 'c',
  orderId: 'o1',
  amountCents: 1999,
  currency: 'EUR',
  paymentMethod: 'pm_card_ok',
};
const shippingAddress = {
  name: 'Ada Example',
  line1: '1 Sample Street',
  postalCode: '10115',
  city: 'Berlin',
  country: 'DE',
};
const contact = { email: 'ada@example.com', phone: '+49 30 1' };
const sending = {
  key: 's',
  orderId: 'o1',
  items: [
    { lineId: '1', sku: 'A', name: 'Lamp', quantity: 2 },
    { lineId: '2', sku: 'A', quantity: 1 },
  ],
  shippingAddress,
  contact,
};
const inVersion1 = {
  capture: { orderId: 'o1', amountCents: 1999, currency: 'EUR' },
  shipment: {
    orderId: 'o1',
    items: [
      { sku: 'A', quantity: 2 },
      { sku: 'A', quantity: 1 },
    ],
  },
};
const parcel = { trackingNumber: expect.stringMatching(/^SIM/), carrier: 'Simulated Post' };

function providersAt(url: string, version: Version) {
  const connection = { url, timeoutMs: 30_000, callsMax: 4 };
  return {
    payments: createHttpPaymentProvider(connection, version),
    shipping: createHttpShippingProvider(connection, version),
  };
}

/** Each version first, then the other. */
const changes = [
  { first: 1, second: 2 },
  { first: 2, second: 1 },
] as const;

describe.each([1, 2] as const)('version %i of the contract', (version) => {
  test('is spoken with the simulator for every operation', async () => {
    await using simulator = await startSimulator();
    const { payments, shipping } = providersAt(simulator.url, version);
    const money = { amountCents: 1999, currency: 'EUR' };
    expect(await payments.lookUpCapture(paying)).toEqual({ outcome: 'absent' });
    const taken = await payments.capture(paying);
    expect(taken).toMatchObject({ outcome: 'ok', result: money });
    if (taken.outcome !== 'ok') throw new Error('not captured');
    const { paymentId } = taken.result;
    const found = { outcome: 'found', result: taken.result };
    expect(await payments.lookUpCapture(paying)).toEqual(found);
    const tooLate = { outcome: 'already_done', result: taken.result };
    expect(await payments.cancelCapture(paying)).toEqual(tooLate);

    const back = { key: 'r', orderId: 'o1', paymentId, ...money };
    expect(await payments.refund(back)).toMatchObject({ outcome: 'ok', result: money });
    expect(await payments.lookUpRefund(back)).toMatchObject({ outcome: 'found', result: money });

    expect(await shipping.lookUpShipment(sending)).toEqual({ outcome: 'absent' });
    const sent = await shipping.ship(sending);
    expect(sent).toEqual({ outcome: 'ok', result: { parcels: [parcel] } });
    const shipped = 'result' in sent && sent.result;
    expect(await shipping.lookUpShipment(sending)).toEqual({ outcome: 'found', result: shipped });
    const left = { outcome: 'already_done', result: shipped };
    expect(await shipping.cancelShipment(sending)).toEqual(left);

    const calls = await simulator.control.calls();
    expect(new Set(calls.map(({ contract }) => contract))).toEqual(new Set([version]));
  });

  test('carries exactly what it knows', async () => {
    await using provider = await startScriptedProvider(() => ({ status: 500, body: {} }));
    const { payments, shipping } = providersAt(provider.url, version);
    await payments.capture(paying);
    await shipping.ship(sending);
    const { key: _, ...capture } = paying;
    const { key: __, ...shipment } = sending;
    const root = version === 1 ? '' : '/v2';
    expect(provider.received).toEqual([
      {
        method: 'POST',
        path: `${root}/payments/captures`,
        key: 'c',
        body: version === 1 ? inVersion1.capture : capture,
      },
      {
        method: 'POST',
        path: `${root}/shipping/shipments`,
        key: 's',
        body: version === 1 ? inVersion1.shipment : shipment,
      },
    ]);
  });

  test('works for an order without a payment method, an address and lines', async () => {
    await using simulator = await startSimulator();
    const { payments, shipping } = providersAt(simulator.url, version);
    const { paymentMethod: _, ...older } = paying;
    await payments.capture(older);
    const outcome = await shipping.ship({ key: 's', ...inVersion1.shipment });
    expect(outcome).toEqual({ outcome: 'ok', result: { parcels: [parcel] } });
    const requests = (await simulator.control.ledger()).map(({ request }) => JSON.parse(request));
    expect(requests).toContainEqual(inVersion1.shipment);
  });
});

describe('version 2', () => {
  test('brings payment method, address and contact to the provider', async () => {
    await using simulator = await startSimulator();
    const { payments, shipping } = providersAt(simulator.url, 2);
    await payments.capture(paying);
    await shipping.ship(sending);
    const details = (await simulator.control.ledger()).map((entry) => entry.details);
    expect(details).toEqual([
      { paymentMethod: digestOf('pm_card_ok') },
      {
        shippingAddress: { country: 'DE', digest: digestOf(shippingAddress) },
        contact: digestOf(contact),
        lines: [{ lineId: '1', name: 'Lamp' }, { lineId: '2' }],
      },
    ]);
  });

  test('has a refusal for a payment method', async () => {
    await using simulator = await startSimulator();
    const { payments } = providersAt(simulator.url, 2);
    const refused = (key: string, paymentMethod: string) =>
      payments.capture({ ...paying, key, paymentMethod });
    const declined = { outcome: 'refused', reason: 'card_declined' };
    expect(await refused('a', 'pm_decline')).toEqual(declined);
    const unheard = { outcome: 'refused', reason: 'payment_method_unknown' };
    expect(await refused('b', 'tok_1')).toEqual(unheard);
  });

  test('brings several parcels back, whichever way they are asked for', async () => {
    await using simulator = await startSimulator();
    const { shipping } = providersAt(simulator.url, 2);
    await simulator.control.addFault({ fault: 'split', parcels: 3, times: 1 });
    const sent = await shipping.ship(sending);
    const withOne = (lineId: string) => ({ ...parcel, items: [{ lineId, quantity: 1 }] });
    const parcels = ['1', '1', '2'].map((lineId) => withOne(lineId));
    expect(sent).toEqual({ outcome: 'ok', result: { parcels } });
    const result = 'result' in sent && sent.result;
    expect(await shipping.lookUpShipment(sending)).toEqual({ outcome: 'found', result });
    expect(await shipping.cancelShipment(sending)).toEqual({ outcome: 'already_done', result });
  });
});

/** Parcels, and what becomes of them: right, stated but not what was asked for, or not the contract. */
const line = (lineId: unknown, quantity: unknown) => ({ lineId, quantity });
const box = (trackingNumber: string, ...items: readonly unknown[]) => ({
  trackingNumber,
  carrier: 'post',
  ...(items.length > 0 && { items }),
});
const unaskedFor = [
  ['another line', [box('A', line('1', 2), line('3', 1))]],
  ['one line more', [box('A', line('1', 2), line('2', 1), line('3', 1))]],
  ['a line less', [box('A', line('1', 2))]],
  ['a quantity above', [box('A', line('1', 2), line('2', 2))]],
  ['a quantity below', [box('A', line('1', 1), line('2', 1))]],
  [
    'a quantity that is too large together',
    [box('A', line('1', 2), line('2', 1)), box('B', line('2', 1))],
  ],
  [
    'a quantity beyond what can be added',
    [box('A', line('1', 2), line('2', 2 ** 53 - 1)), box('B', line('2', 2 ** 53 - 1))],
  ],
  ['a line by its sku', [box('A', line('A', 3))]],
] as const;
const malformed = [
  ['none', []],
  ['one that is no object', ['A']],
  ['no tracking number', [{ carrier: 'post' }]],
  ['an empty tracking number', [box('')]],
  ['a tracking number that cannot be stored', [box('A\0')]],
  ['a tracking number of 101 characters', [box('A'.repeat(101))]],
  ['no carrier', [{ trackingNumber: 'A' }]],
  ['the same tracking number twice', [box('A', line('1', 2)), box('A', line('2', 1))]],
  ['several without items', [box('A'), box('B')]],
  ['several, of which one is without items', [box('A', line('1', 2), line('2', 1)), box('B')]],
  ['an empty list of items', [{ ...box('A'), items: [] }]],
  ['items that are null', [{ ...box('A'), items: null }]],
  ['the same line twice in one', [box('A', line('1', 1), line('1', 1), line('2', 1))]],
  ['a quantity of 0', [box('A', line('1', 3), line('2', 0))]],
  ['a quantity below 0', [box('A', line('1', 2), line('2', -1))]],
  ['half a piece', [box('A', line('1', 1.5), line('2', 1))]],
  ['a quantity as text', [box('A', line('1', '2'), line('2', 1))]],
  ['a line as a number', [box('A', line(1, 2), line('2', 1))]],
  ['101 of them', Array.from({ length: 101 }, (_, each) => box(`T${each}`, line('1', 1)))],
] as const;
const right = [
  ['one without items', [box('A')]],
  ['one with all items', [box('A', line('2', 1), line('1', 2))]],
  ['two with a line each', [box('A', line('2', 1)), box('B', line('1', 2))]],
  ['a line in two', [box('A', line('1', 1)), box('B', line('1', 1), line('2', 1))]],
] as const;

describe('parcels in a response', () => {
  /** The outcomes of the three ways to be told of parcels. */
  const outcomes = async (parcels: readonly unknown[], request: object = {}) => {
    await using provider = await startScriptedProvider(({ method, path }) => {
      const stated = { key: 's', orderId: 'o1', parcels };
      if (path.endsWith('/cancel'))
        return { status: 200, body: { outcome: 'already_done', key: 's', result: stated } };
      return { status: method === 'GET' ? 200 : 201, body: stated };
    });
    const { shipping } = providersAt(provider.url, 2);
    const asked = { ...sending, ...request };
    return [
      await shipping.ship(asked),
      await shipping.lookUpShipment(asked),
      await shipping.cancelShipment(asked),
    ];
  };

  test.each(right)('count: %s', async (_, parcels) => {
    const result = { parcels };
    expect(await outcomes(parcels)).toEqual([
      { outcome: 'ok', result },
      { outcome: 'found', result },
      { outcome: 'already_done', result },
    ]);
  });

  test.each(unaskedFor)('are stated and not believed: %s', async (_, parcels) => {
    const outcome = {
      outcome: 'unknown',
      reason: 'the provider states parcels with other lines or quantities than were asked for',
      stated: { parcels },
    };
    expect(await outcomes(parcels)).toEqual([outcome, outcome, outcome]);
  });

  test.each(malformed)('are not the contract: %s', async (_, parcels) => {
    const outcome = (status: number) => ({
      outcome: 'unknown',
      reason: `response ${status} does not match the contract`,
    });
    expect(await outcomes(parcels)).toEqual([outcome(201), outcome(200), outcome(200)]);
  });

  test('may not name lines that the request does not name', async () => {
    const { items } = inVersion1.shipment;
    const named = [box('A', line('1', 2), line('2', 1))];
    for (const outcome of await outcomes(named, { items })) {
      expect(outcome).toMatchObject({ outcome: 'unknown', stated: { parcels: named } });
    }
    const [sent] = await outcomes([box('A')], { items });
    expect(sent).toEqual({ outcome: 'ok', result: { parcels: [box('A')] } });
  });

  test('may be one hundred, each with the longest texts', async () => {
    const text = (each: number) => `${each}`.padStart(100, 'x');
    const parcels = Array.from({ length: 100 }, (_, each) => ({
      trackingNumber: text(each),
      carrier: text(0),
      items: [{ lineId: '1', quantity: 1 }],
    }));
    const items = [{ lineId: '1', sku: 'A', quantity: 100 }];
    const [sent] = await outcomes(parcels, { items });
    expect(sent).toEqual({ outcome: 'ok', result: { parcels } });
  });

  test('above 64 KiB are not read', async () => {
    const items = Array.from({ length: 900 }, (_, each) => line(`${each}`.padStart(80, '0'), 1));
    const unread = { outcome: 'unknown', reason: 'response 201 is too large' };
    expect((await outcomes([box('A', ...items)]))[0]).toEqual(unread);
  });
});

describe.each(changes)('a change from version $first to version $second', ({ first, second }) => {
  test.each(['reset_before', 'reset_after', 'late_error', 'late'] as const)(
    'finds or repeats a capture that went wrong by %s, once',
    async (fault) => {
      await using simulator = await startSimulator();
      const { control, url } = simulator;
      await control.addFault({ fault, operation: 'capture', times: 1 });
      const leaving = new AbortController();
      const before = providersAt(url, first).payments.capture(paying, leaving.signal);
      await control.nextCall({ operation: 'capture' });
      if (fault === 'late') leaving.abort();
      expect(await before).toMatchObject({ outcome: 'unknown' });

      const { payments } = providersAt(url, second);
      const looked = await payments.lookUpCapture(paying);
      expect(looked.outcome).toBe(fault === 'reset_after' ? 'found' : 'absent');
      const again = await payments.capture(paying);
      expect(again).toMatchObject({ outcome: 'ok' });
      await control.release();
      expect(await control.ledger()).toHaveLength(1);
      expect(await payments.cancelCapture(paying)).toMatchObject({ outcome: 'already_done' });
    },
  );

  test('finds, repeats and does not cancel a parcel that has left', async () => {
    await using simulator = await startSimulator();
    const { control, url } = simulator;
    await control.addFault({ fault: 'reset_after', operation: 'ship', times: 1 });
    await providersAt(url, first).shipping.ship(sending);
    const [entry] = await control.ledger();
    const { shipping } = providersAt(url, second);
    const result = { parcels: entry!.parcels };
    expect(await shipping.lookUpShipment(sending)).toEqual({ outcome: 'found', result });
    expect(await shipping.ship(sending)).toEqual({ outcome: 'ok', result });
    expect(await shipping.cancelShipment(sending)).toEqual({ outcome: 'already_done', result });
    expect(await control.ledger()).toHaveLength(1);
  });

  test('keeps a key closed, whatever lands late', async () => {
    await using simulator = await startSimulator();
    const { control, url } = simulator;
    await control.addFault({ fault: 'late_error', operation: ['capture', 'ship'], times: 2 });
    const before = providersAt(url, first);
    await before.payments.capture(paying);
    await before.shipping.ship(sending);
    const after = providersAt(url, second);
    expect(await after.payments.cancelCapture(paying)).toEqual({ outcome: 'cancelled' });
    expect(await after.shipping.cancelShipment(sending)).toEqual({ outcome: 'cancelled' });
    await control.release();
    const effects = (await control.ledger()).map(({ effect }) => effect);
    expect(effects).toEqual(['tombstone', 'tombstone']);
    const closed = { outcome: 'refused', reason: 'key_cancelled' };
    expect(await before.payments.capture(paying)).toEqual(closed);
    expect(await before.shipping.ship(sending)).toEqual(closed);
  });
});

test('several parcels are unknown in version 1, and none of them is lost', async () => {
  await using simulator = await startSimulator();
  await simulator.control.addFault({ fault: 'split', times: 1 });
  await providersAt(simulator.url, 2).shipping.ship(sending);
  const { shipping } = providersAt(simulator.url, 1);
  const outcome = {
    outcome: 'unknown',
    reason: 'response 409 several_parcels states no outcome',
  };
  expect(await shipping.ship(sending)).toEqual(outcome);
  expect(await shipping.lookUpShipment(sending)).toEqual(outcome);
  expect(await shipping.cancelShipment(sending)).toEqual(outcome);
});

describe('what a provider says about secrets and personal data', () => {
  const { at, foundIn } = createCanaries();
  const secretly = {
    ...paying,
    paymentMethod: at('paymentMethod'),
  };
  const privately = {
    ...sending,
    shippingAddress: {
      name: at('name'),
      line1: at('line1'),
      line2: at('line2'),
      postalCode: at('postalCode'),
      city: at('city'),
      region: at('region'),
      country: 'DE',
    },
    contact: { email: `${at('email')}@example.com`, phone: at('phone') },
  };

  const echo = (body: unknown) => ({ message: JSON.stringify(body), request: body });
  const done = (key: string, body: unknown) => ({
    key,
    orderId: 'o1',
    paymentId: 'pay_1',
    amountCents: 1999,
    currency: 'EUR',
    parcels: [{ trackingNumber: 'T', carrier: 'post', shippingAddress: body, ...echo(body) }],
    ...echo(body),
  });
  type Say = (key: string, body: unknown) => unknown;
  const careless: readonly (readonly [string, number, Say])[] = [
    ['201 with more than is asked for', 201, done],
    ['201 with another amount', 201, (key, body) => ({ ...done(key, body), amountCents: 1 })],
    ['201 of another shape', 201, (key, body) => ({ key, ...echo(body) })],
    [
      '201 with a currency that is none',
      201,
      (key, body) => ({ ...done(key, body), currency: body }),
    ],
    ['a refusal', 402, (key, body) => ({ outcome: 'refused', code: 'no', key, ...echo(body) })],
    [
      'a refusal whose code quotes it',
      402,
      (key, body) => ({ outcome: 'refused', code: JSON.stringify(body), key }),
    ],
    [
      'a 400 whose code quotes it',
      400,
      (key, body) => ({ outcome: 'not_applied', code: JSON.stringify(body), key }),
    ],
    [
      'a 422 that states no outcome',
      422,
      (key, body) => ({ code: JSON.stringify(body), key, ...echo(body) }),
    ],
    ['a page', 500, (_, body) => `<h1>${JSON.stringify(body)}</h1>`],
    ['another key', 201, (_, body) => done(JSON.stringify(body), body)],
    ['a redirect', 307, (_, body) => JSON.stringify(body)],
  ];
  test.each(careless)('is in no outcome, after %s', async (_, status, say) => {
    await using provider = await startScriptedProvider(({ key, body }) => ({
      status,
      body: say(key, body),
    }));
    const { payments, shipping } = providersAt(provider.url, 2);
    const outcomes = [await payments.capture(secretly), await shipping.ship(privately)];
    expect(foundIn(JSON.stringify(provider.received))).toHaveLength(9);
    expect(foundIn(inspect(outcomes, { depth: null, showHidden: true }))).toEqual([]);
    expect(foundIn(JSON.stringify(outcomes))).toEqual([]);
  });

  test('is in no outcome if nothing could be sent', async () => {
    const { payments, shipping } = providersAt('http://provider.invalid', 2);
    const outcomes = [
      await payments.capture(secretly),
      await shipping.ship(privately),
      await payments.capture({ ...secretly, key: 'k\r\n' }),
    ];
    expect(foundIn(inspect(outcomes, { depth: null, showHidden: true }))).toEqual([]);
  });

  test('is not sent in version 1', async () => {
    await using provider = await startScriptedProvider(() => ({ status: 500, body: {} }));
    const { payments, shipping } = providersAt(provider.url, 1);
    await payments.capture(secretly);
    await shipping.ship(privately);
    expect(provider.received).toHaveLength(2);
    expect(foundIn(JSON.stringify(provider.received))).toEqual([]);
  });
});
