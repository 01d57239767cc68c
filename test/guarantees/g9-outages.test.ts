import { randomUUID } from 'node:crypto';
import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { freePort } from '#dev/ports.ts';
import { problemOf } from '#test/support/api-shapes.ts';
import { checkHistory } from '#test/support/checker.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { startFaultyPostgres } from '#test/support/faulty-servers.ts';
import type { FaultyPostgres } from '#test/support/faulty-servers.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { createRecorder, orderIn } from '#test/support/recorder.ts';
import type { Call } from '#test/support/recorder.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * G9, with Postgres or Kafka away: a response for everybody within the time limits, never a false 2xx, no
 * crash, and back to work without a hand.
 */
describe.skipIf(skipReason('postgres'))('while Postgres', () => {
  test('is stopped, frozen or not yet there, callers hear 503, and are served again after', async () => {
    await using postgres = await startFaultyPostgres();
    await postgres.stop();
    const starting = startService({ databaseUrl: postgres.url });
    await postgres.start();
    await using service = await starting;
    const recorder = createRecorder();
    const order = orderIn(await recorder.place(service.api));

    await postgres.stop();
    await expectUnavailable(service, recorder.read(service.api, order.orderId));
    await expectUnavailable(service, recorder.place(service.api));
    await expectUnavailable(service, recorder.send(service.api, 'pay', order));
    expect(problemOf(await service.api.request('GET', '/v1/orders')).status).toBe(503);
    await postgres.start();
    await untilServed(service);

    await postgres.pause();
    await Promise.all([
      expectUnavailable(service, recorder.read(service.api, order.orderId)),
      expectUnavailable(service, recorder.place(service.api)),
      expectUnavailable(service, recorder.send(service.api, 'pay', order)),
    ]);
    // Not beside the others: a third command waits for one of them, and then hears overloaded.
    await expectUnavailable(service, recorder.send(service.api, 'cancel', order));
    await postgres.resume();
    await untilServed(service);

    const placed = orderIn(await recorder.place(service.api));
    expect(await recorder.send(service.api, 'pay', placed)).toMatchObject({ outcome: 'ok' });
    expect(await checkHistory(recorder.calls, postgres.url, { relay: 'off' })).toEqual([]);
  });
});

describe.skipIf(skipReason('postgres'))('while commits wait for a standby that is gone', () => {
  test('reads go on, and commands leave no more sessions behind than the pool has', async () => {
    await using postgres = await startFaultyPostgres();
    await using service = await startService({ databaseUrl: postgres.url });
    const { api } = service;
    const recorder = createRecorder();
    const order = orderIn(await recorder.place(api));
    await recorder.send(api, 'pay', orderIn(await recorder.place(api))); // nothing is new any more
    await requireStandby(postgres, 'nobody');

    const key = randomUUID();
    const first = recorder.place(api, { key, token: 'first' });
    await eventually(async () => (await hangingCommits(postgres)) === 1);
    const second = recorder.send(api, 'pay', order);
    await eventually(async () => (await hangingCommits(postgres)) === WRITERS);
    await untilReadiness(api, 503);
    expect(await api.get(order.orderId)).toEqual(order);
    for (const { reason } of [await first, await second]) expect(reason).toBe('outcome_unknown');
    for (let round = 0; round < 2; round += 1) {
      const others = [recorder.place(api), recorder.place(api), recorder.send(api, 'pay', order)];
      for (const { response } of await Promise.all(others)) expectToComeAgain(response!);
      // What is not on the standby is not told as done, to whoever asks.
      expect((await recorder.place(api, { key, token: 'first' })).outcome).not.toBe('ok');
      expect(await api.get(order.orderId)).toEqual(order);
    }
    expect(await hangingCommits(postgres)).toBe(WRITERS);

    await requireStandby(postgres, '');
    await untilServed(service);
    expect((await recorder.place(api, { key, token: 'first' })).outcome).toBe('ok');
    expect(await checkHistory(recorder.calls, postgres.url, { relay: 'off' })).toEqual([]);
  });
});

describe.skipIf(skipReason('postgres'))('while others take every connection of Postgres', () => {
  test('readiness says so as long as callers would hear it', async () => {
    await using postgres = await startFaultyPostgres();
    await using service = await startService({ databaseUrl: postgres.url });
    const { api } = service;
    await api.placeOrder();
    const others = await takeConnections(postgres.url);
    await eventually(async () => {
      await endSessions(others[0]!);
      others.push(...(await takeConnections(postgres.url)));
      return (await api.request('GET', '/readyz')).status === 503;
    });
    expectToComeAgain(await api.request('GET', '/v1/orders'));
    expectToComeAgain(await api.place(placeBody));
    await Promise.all(others.map((other) => other.end()));
    await untilServed(service);
    await api.placeOrder();
  });
});

describe.skipIf(skipReason('postgres'))('while Kafka is away', () => {
  test('commands are taken and readiness holds, and says what waits', async () => {
    await using database = await createTestDatabase();
    const nobody = `127.0.0.1:${await freePort()}`;
    await using service = await startService({ databaseUrl: database.url, brokers: [nobody] });
    const recorder = createRecorder();
    const order = orderIn(await recorder.place(service.api));
    expect(await recorder.send(service.api, 'pay', order)).toMatchObject({ outcome: 'ok' });
    await expect
      .poll(async () => readiness(service))
      .toMatchObject({
        status: 'ready',
        outbox: { pendingRows: 2, oldestAgeSeconds: expect.any(Number) },
      });
    expect(await checkHistory(recorder.calls, database.url, { relay: 'off' })).toEqual([]);
  });
});

/** Transactions of the write path at once. */
const WRITERS = 2;

async function requireStandby(postgres: FaultyPostgres, name: string): Promise<void> {
  await postgres.query(`alter system set synchronous_standby_names = '${name}'`);
  await postgres.query('select pg_reload_conf()');
}

async function hangingCommits(postgres: FaultyPostgres): Promise<number> {
  const rows = await postgres.query(`select from pg_stat_activity where wait_event = 'SyncRep'`);
  return rows.length;
}

/** All that there are, those kept for superusers too. */
async function takeConnections(url: string): Promise<Client[]> {
  const taken: Client[] = [];
  for (;;) {
    const client = new Client({ connectionString: url });
    client.on('error', () => {});
    try {
      await client.connect();
    } catch {
      return taken;
    }
    taken.push(client);
  }
}

/** Of the service. */
async function endSessions(superuser: Client): Promise<void> {
  await superuser.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where application_name = 'order-service'`,
  );
}

async function expectUnavailable({ api }: TestService, call: Promise<Call>): Promise<void> {
  const { response } = await call;
  expectToComeAgain(response!);
  expect(await api.request('GET', '/livez')).toMatchObject({ status: 200 });
  await untilReadiness(api, 503);
}

function expectToComeAgain(response: HttpResponse): void {
  const problem = problemOf(response);
  expect(problem.status).toBe(503);
  expect(['database_unavailable', 'outcome_unknown']).toContain(problem.code);
  expect(response.headers['retry-after']).toMatch(/^[1-9]\d*$/);
}

async function untilServed({ api }: TestService): Promise<void> {
  await expect.poll(async () => (await api.request('GET', '/v1/orders')).status).toBe(200);
  await untilReadiness(api, 200);
}

async function untilReadiness(api: OrderApi, status: number): Promise<void> {
  await expect.poll(async () => (await api.request('GET', '/readyz')).status).toBe(status);
}

async function readiness({ api }: TestService): Promise<unknown> {
  const { status, text } = await api.request('GET', '/readyz');
  expect(status).toBe(200);
  return JSON.parse(text);
}
