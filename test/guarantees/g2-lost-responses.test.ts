import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { checkHistory } from '#test/support/checker.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { createOrderApi } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { createRecorder, orderIn } from '#test/support/recorder.ts';
import type { Call, RecordOptions } from '#test/support/recorder.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import type { TcpProxy } from '#test/support/tcp-proxy.ts';

/*
 * G2, with responses lost: between the client and the service, between the service and Postgres, and by the
 * death of the service. Whoever asks again with the same key learns the one outcome.
 */
describe.skipIf(skipReason('postgres'))('a command whose response was lost', () => {
  const recorder = createRecorder();
  let database: TestDatabase;
  let betweenServiceAndPostgres: TcpProxy;
  let service: TestService;
  let betweenClientAndService: TcpProxy;
  let shaky: OrderApi;

  beforeAll(async () => {
    database = await createTestDatabase();
    betweenServiceAndPostgres = await startTcpProxy(database.url);
    service = await startService({ databaseUrl: betweenServiceAndPostgres.url });
    betweenClientAndService = await startTcpProxy(service.url);
    shaky = createOrderApi(betweenClientAndService.url);
  });
  afterAll(async () => {
    shaky.close();
    await betweenClientAndService[Symbol.asyncDispose]();
    await service[Symbol.asyncDispose]();
    await betweenServiceAndPostgres[Symbol.asyncDispose]();
    expect(await checkHistory(recorder.calls, database.url, { relay: 'off' })).toEqual([]);
    await database[Symbol.asyncDispose]();
  });

  type Send = (api: OrderApi, options: RecordOptions) => Promise<Call>;
  /** Each command on an order that is ready for it; a token makes its bytes known to the proxies. */
  const commands: ReadonlyArray<[string, () => Promise<Send>]> = [
    ['place', async () => (api, options) => recorder.place(api, options)],
    ['pay', async () => sender('pay', await placed())],
    ['ship', async () => sender('ship', await paid())],
    ['cancel', async () => sender('cancel', await paid())],
  ];
  const sender = (name: 'pay' | 'ship' | 'cancel', order: Order): Send => {
    return (api, options) => recorder.send(api, name, order, options);
  };
  const placed = async () => orderIn(await recorder.place(service.api));
  const paid = async () => {
    const order = await placed();
    return orderIn(await recorder.send(service.api, 'pay', order));
  };

  test.each(commands)('%s: on its way to the client, is told again', async (_, ready) => {
    const send = await ready();
    const options = keyAndToken();
    const trap = betweenClientAndService.trap(options.token, 'cutResponse');
    const lost = await send(shaky, options);
    await trap.sprung;
    expect(lost.outcome).toBe('info');
    const counts = await rowCounts(database);
    expectReplayed(await send(service.api, options));
    expect(await rowCounts(database)).toEqual(counts);
  });

  test.each(commands)('%s: before it reached the service, is done now', async (_, ready) => {
    const send = await ready();
    const options = keyAndToken();
    const before = await rowCounts(database);
    const trap = betweenClientAndService.trap(options.token, 'cutBefore');
    expect(await send(shaky, options)).toMatchObject({ outcome: 'info' });
    await trap.sprung;
    expect(await send(service.api, options)).toMatchObject({ outcome: 'ok', isReplayed: false });
    expect((await rowCounts(database)).events).toBe(before.events + 1);
  });

  test.each(commands)('%s: because the client left, takes effect once', async (_, ready) => {
    const send = await ready();
    const options = keyAndToken();
    const before = await rowCounts(database);
    const trap = betweenServiceAndPostgres.trap(options.token, 'hold');
    const client = new AbortController();
    const left = send(service.api, { ...options, signal: client.signal });
    await trap.sprung;
    client.abort();
    expect(await left).toMatchObject({ outcome: 'info' });
    const meanwhile = await send(service.api, options);
    expect(meanwhile).toMatchObject({ outcome: 'fail', reason: 'idempotency_key_in_use' });
    trap.release();
    await settled(() => send(service.api, options));
    expect((await rowCounts(database)).events).toBe(before.events + 1);
  });

  test.each(commands)(
    '%s: between Postgres and the service, is unknown until asked',
    async (_, ready) => {
      const send = await ready();
      const options = keyAndToken();
      const trap = betweenServiceAndPostgres.trap(options.token, 'cutResponse');
      const unknown = await send(service.api, options);
      await trap.sprung;
      expectUnknown(unknown.response!);
      const counts = await rowCounts(database);
      const again = await send(service.api, options);
      expectReplayed(again);
      expect(await rowCounts(database)).toEqual(counts);
      // The key may stand for an earlier try, which had another id: none is named.
      expect(problemOf(unknown.response!)).not.toHaveProperty('orderId');
    },
  );

  const two = commands.slice(0, 2); // each dies with the service, which takes a while to come back
  test.each(two)('%s: and that lands after the service died, is found', async (_, ready) => {
    const send = await ready();
    const options = keyAndToken();
    const before = await rowCounts(database);
    const trap = betweenServiceAndPostgres.trap(options.token, 'hold');
    const lost = send(service.api, options);
    await trap.sprung;
    await service.kill();
    expect(await lost).toMatchObject({ outcome: 'info' });
    expect(await rowCounts(database)).toEqual(before);
    trap.release();
    await expect.poll(() => rowCounts(database)).not.toEqual(before);
    await service.restart();
    const counts = await rowCounts(database);
    expectReplayed(await send(service.api, options));
    expect(await rowCounts(database)).toEqual(counts);
    expect(counts.events).toBe(before.events + 1);
  });

  test('is not sent again by the service itself, without a key either', async () => {
    const { token } = keyAndToken();
    const before = await rowCounts(database);
    const trap = betweenServiceAndPostgres.trap(token, 'cutResponse');
    const unknown = await recorder.place(service.api, { token });
    await trap.sprung;
    expectUnknown(unknown.response!);
    const { orderId } = problemOf(unknown.response!);
    expect(await service.api.get(orderId!)).toMatchObject({ customerId: token, version: 1 });
    await recorder.place(service.api); // whatever was still to come has come before it
    expect((await rowCounts(database)).events).toBe(before.events + 2);
  });

  test('that lands after the command was repeated, takes effect once', async () => {
    const pay = sender('pay', await placed());
    const toPlace = keyAndToken();
    const toPay = keyAndToken();
    const before = await rowCounts(database);
    const holdPlace = betweenServiceAndPostgres.trap(toPlace.token, 'hold');
    const holdPay = betweenServiceAndPostgres.trap(toPay.token, 'hold');
    const placing = recorder.place(service.api, toPlace);
    await holdPlace.sprung; // or both come in one batch, and one of the traps catches what is sent again
    const paying = pay(service.api, toPay);
    await holdPay.sprung;
    for (const { response } of await Promise.all([placing, paying])) expectUnknown(response!);
    const place = await recorder.place(service.api, toPlace);
    const paid = await pay(service.api, toPay);
    expect([place.outcome, paid.outcome]).toEqual(['ok', 'ok']);
    const counts = await rowCounts(database);
    expect(counts.events).toBe(before.events + 2);

    holdPlace.release();
    holdPay.release();
    await Promise.all([holdPlace.closed, holdPay.closed]);
    await noCommitRuns(database);
    expect(await rowCounts(database)).toEqual(counts);
    expectReplayed(await recorder.place(service.api, toPlace));
    expectReplayed(await pay(service.api, toPay));
  });
});

function keyAndToken() {
  return { key: randomUUID(), token: randomUUID() };
}

/** Until the request that holds the key has ended. */
async function settled(send: () => Promise<Call>): Promise<void> {
  await expect.poll(async () => (await send()).outcome).toBe('ok');
}

function expectReplayed(call: Call): void {
  expect(call).toMatchObject({ outcome: 'ok', isReplayed: true });
  orderOf(call.response!);
}

function expectUnknown(response: HttpResponse): void {
  expect(problemOf(response)).toMatchObject({ status: 503, code: 'outcome_unknown' });
  expect(Number(response.headers['retry-after'])).toBeGreaterThan(0);
}

/** Late writes have come through, one way or the other. */
async function noCommitRuns(database: TestDatabase): Promise<void> {
  await expect
    .poll(() =>
      database.query(
        `select query from pg_stat_activity
         where datname = current_database() and backend_type = 'client backend'
           and state <> 'idle' and query like '%write_units%' and pid <> pg_backend_pid()`,
      ),
    )
    .toEqual([]);
}
