import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { faultNames } from '#test/support/saga/stories.ts';
import { operations } from '#dev/provider-simulator/contract.ts';
import type { SimulatorClient } from '#dev/provider-simulator/simulator-client.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { verifyPersonalData } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { createRandom } from '#test/support/random.ts';
import { doAfterShipping, drawAfterShipping } from '#test/support/saga/after-shipping.ts';
import type { AfterShipping } from '#test/support/saga/after-shipping.ts';
import { createSagaApi, orderIn, refusalOf } from '#test/support/saga/api.ts';
import type { SagaApi } from '#test/support/saga/api.ts';
import { verifySagas } from '#test/support/saga/verify-sagas.ts';
import { createSagaWorld, untilAtRest } from '#test/support/saga/world.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

const ORDERS = 200;
const KILLS = 6;
/** With providers that are well again, one would do. */
const REPAIRS_MAX = 2;
/** Orders on their way from the client side at once. */
const CLIENTS = 32;
/** Of the calls to providers this share goes wrong. */
const FAULT_SHARE = 0.3;
const STOCK = { book: 260, pen: 1000 };
/** More books are wanted than there are, so that some orders find none. */
const BASKETS = [
  [{ sku: 'book', quantity: 1, priceCents: 1250 }],
  [{ sku: 'book', quantity: 2, priceCents: 1250 }],
  [
    { sku: 'pen', quantity: 3, priceCents: 100 },
    { sku: 'book', quantity: 2, priceCents: 1250 },
    { sku: 'pen', quantity: 1, priceCents: 90 },
  ],
] as const;
/** Sagas at once as a slow machine can serve them, and calls as long as it takes: most get a response. */
const LONG_TIMEOUTS = { SAGA_CONCURRENCY: '40', PROVIDER_TIMEOUT_MS: '2000' };
/** The response to a cancel that comes too late, or to a fulfilment that has ended. */
const TOO_LATE =
  /^409 (shipment_requested|order_already_shipped|order_cancelled|order_already_paid)$/;

/** One customer: what is bought, and whether it is cancelled. All of it follows from the seed. */
type Customer = Readonly<{
  key: string;
  basket: (typeof BASKETS)[number];
  /** Its calls go wrong by this seed. An order that is under way as soon as it is placed meets no fault. */
  faultSeed: number | undefined;
  cancels: boolean;
  /** Undefined for a customer who does not come back. */
  after: AfterShipping | undefined;
  /** The carrier sends several parcels. */
  splits: boolean;
  /** The provider refuses the first refund. */
  refundRefused: boolean;
}>;

/** Tries again, with the same key, until a replica has responded. */
async function insist(
  replicas: readonly SagaApi[],
  ask: (api: SagaApi) => Promise<HttpResponse>,
): Promise<HttpResponse> {
  let turn = 0;
  const askNext = async () => {
    turn += 1;
    const response = await ask(replicas[turn % replicas.length]!);
    const isUnderWay = response.status === 409 && response.text.includes('idempotency_key_in_use');
    if (response.status >= 500 || isUnderWay) throw new Error(`no response yet: ${response.text}`);
    return response;
  };
  return eventually(askNext, { withinMs: 180_000 });
}

/** Returns what was refused to who came back. */
async function serve(
  replicas: readonly SagaApi[],
  customer: Customer,
  simulator: SimulatorClient,
): Promise<string[]> {
  const { key, basket, faultSeed, cancels, after } = customer;
  const fulfilment = faultSeed === undefined ? 'automatic' : 'manual';
  const placed = await insist(replicas, ({ place }) => place(basket, { fulfilment, key }));
  const { orderId } = orderIn(placed);
  const say = async (name: string, body?: unknown) => {
    const response = await insist(replicas, ({ command }) => command(name, orderId, body));
    if (response.status >= 400) expect(refusalOf(response)).toMatch(TOO_LATE);
  };
  if (faultSeed !== undefined) {
    await addMishaps(simulator, orderId, faultSeed, customer);
    await say('fulfil');
  }
  if (cancels) await say('cancel', { reason: 'changed my mind' });
  if (!after) return [];
  const ask = (method: string, path: string, body?: unknown) => {
    const headers = { 'idempotency-key': randomUUID() };
    return insist(replicas, ({ request }) => request(method, path, { body, headers }));
  };
  return doAfterShipping(ask, orderId, after);
}

/** What goes wrong with the calls for one order: the same in every run with the same seed. */
async function addMishaps(
  simulator: SimulatorClient,
  orderId: string,
  seed: number,
  { splits, refundRefused }: Customer,
) {
  // The first rule that matches decides: the others wait for later calls.
  if (splits) await simulator.addFault({ orderId, operation: 'ship', fault: 'split', times: 1 });
  if (refundRefused) {
    await simulator.addFault({ orderId, operation: 'refund', fault: 'refuse', times: 1 });
  }
  const mishap = { orderId, seed, probability: FAULT_SHARE, lateMs: 30, retryAfterSeconds: 0 };
  const others = operations.filter((operation) => operation !== 'refund');
  await simulator.addFault({ ...mishap, operation: others, fault: faultNames });
  // Who gives back other money than was taken cannot be put right from here.
  const possible = faultNames.filter(
    (name) => name !== 'other_amount' && name !== 'other_currency',
  );
  await simulator.addFault({ ...mishap, operation: 'refund', fault: possible });
}

/** One after the other: the next dies only once the last is back. */
async function replace(victim: TestService, before: Promise<void>): Promise<void> {
  await before;
  await victim.kill();
  await victim.restart();
}

/** Every refund that is stuck is asked for again, as an operator would. */
async function repair({ database }: SagaWorld, { command, refunds }: SagaApi): Promise<void> {
  const stuck = await database.query<{ subject_id: string; definition: string; saga_id: string }>(
    `select subject_id, definition, saga_id from saga_work where state = 'stuck'`,
  );
  for (const { subject_id: orderId, definition, saga_id: sagaId } of stuck) {
    const isRefund = definition === 'refund';
    const own = isRefund ? (await refunds(orderId)).find((it) => it.sagaId === sagaId) : undefined;
    const path = isRefund ? `refunds/${own?.refundId}` : 'fulfilment';
    const response = await command(`${path}/retry`, orderId);
    expect(response.status, response.text).toBe(202);
  }
}

/** A refund that failed frees its amount: all that is left can be asked for. Returns what was refused. */
async function refundTheRest({ database }: SagaWorld, { command, order }: SagaApi) {
  const failed = await database.query<{ order_id: string }>(
    `select distinct stream_id as order_id from events where type = 'RefundFailed'`,
  );
  const refused: string[] = [];
  for (const { order_id: orderId } of failed) {
    const { capturedCents, refundedCents } = await order(orderId);
    const amountCents = capturedCents - refundedCents;
    if (amountCents === 0) continue;
    const { status, text } = await command('refund', orderId, { refundId: 'rest', amountCents });
    if (status !== 202) refused.push(`${orderId}: ${text}`);
  }
  return refused;
}

/** What must have happened, or nothing was tried. */
const WANTED = [
  'ItemsReturned',
  'ParcelDelivered',
  'ParcelShipped',
  'PaymentRefunded',
  'PersonalDataErased',
  'RefundFailed',
  'RefundRequested',
];

describe.skipIf(skipReason('postgres'))('G7 in a random order of mishaps', () => {
  test('whatever fails, dies or is cancelled, every fulfilment ends and adds up', async () => {
    const random = createRandom();
    await using world = await createSagaWorld();
    const { simulator, database, env } = world;
    for (const [sku, onHand] of Object.entries(STOCK)) await world.setStock(sku, onHand);
    const customers = Array.from({ length: ORDERS }, (_, index): Customer => ({
      key: `${random.seed}-${index}`,
      basket: BASKETS[random.below(BASKETS.length)]!,
      faultSeed: random.below(4) === 0 ? undefined : random.below(2 ** 31),
      cancels: random.below(4) === 0,
      after: random.below(3) === 0 ? undefined : drawAfterShipping(random),
      splits: random.below(3) === 0,
      refundRefused: random.below(4) === 0,
    }));
    const kills = new Map(
      Array.from({ length: KILLS }, (_, index) => [
        Math.floor(((index + 1) * ORDERS) / (KILLS + 1)),
        random.below(2),
      ]),
    );

    const options = { databaseUrl: database.url, env: { ...env, ...LONG_TIMEOUTS } };
    const starting = [startService(options), startService(options)] as const;
    await using first = await starting[0];
    await using second = await starting[1];
    const services: readonly TestService[] = [first, second];
    const apis = services.map(({ url }) => createSagaApi(url));
    let mending = Promise.resolve();
    const waiting = customers.entries();
    const refused: string[] = [];
    await Promise.all(
      Array.from({ length: CLIENTS }, async () => {
        for (const [index, customer] of waiting) {
          const victim = services[kills.get(index) ?? -1];
          if (victim) mending = replace(victim, mending);
          const replicas = [apis[index % 2]!, apis[(index + 1) % 2]!];
          refused.push(...(await serve(replicas, customer, simulator)));
        }
      }),
    );
    await mending;
    await untilAtRest(world, ORDERS);
    await simulator.clearFaults();
    for (let round = 0; round < REPAIRS_MAX; round += 1) {
      await repair(world, apis[0]!);
      await untilAtRest(world, ORDERS);
    }
    expect(await refundTheRest(world, apis[0]!)).toEqual([]);
    await untilAtRest(world, ORDERS);
    await simulator.release();
    expect(await verifySagas(world, { stock: STOCK })).toEqual([]);
    expect(await verifyPersonalData(database.query)).toEqual([]);
    for (const api of apis) api.close();
    const types = await database.query<{ type: string }>(
      'select distinct type from events where type = any($1) order by type',
      [WANTED],
    );
    expect(types.map(({ type }) => type)).toEqual(WANTED);
    const refusals = ['409 fulfilment_running', '409 refund_exceeds_captured'];
    expect([...new Set(refused)].toSorted()).toEqual(refusals);

    const states = await database.query<{ state: string; count: number }>(
      'select state, count(*) from saga_work group by state order by state',
    );
    expect(states.map(({ state }) => state)).toEqual(['compensated', 'completed']);
    console.log(states.map(({ state, count }) => `${count} ${state}`).join(', '));
  }, 600_000);
});
