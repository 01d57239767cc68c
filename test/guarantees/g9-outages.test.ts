import { describe, expect, test } from 'vitest';
import { freePort } from '#dev/ports.ts';
import { problemOf } from '#test/support/api-shapes.ts';
import { checkHistory } from '#test/support/checker.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { startFaultyPostgres } from '#test/support/faulty-postgres.ts';
import type { Answer } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { createRecorder, orderIn } from '#test/support/recorder.ts';
import type { Call } from '#test/support/recorder.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * G9, with Postgres or Kafka away: an answer for everybody within the time limits, never a false 2xx, no
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
      expectUnavailable(service, recorder.send(service.api, 'cancel', order)),
    ]);
    await postgres.resume();
    await untilServed(service);

    const placed = orderIn(await recorder.place(service.api));
    expect(await recorder.send(service.api, 'pay', placed)).toMatchObject({ outcome: 'ok' });
    expect(await checkHistory(recorder.calls, postgres.url, { relay: 'off' })).toEqual([]);
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

async function expectUnavailable({ api }: TestService, call: Promise<Call>): Promise<void> {
  const { answer } = await call;
  expectToComeAgain(answer!);
  expect(await api.request('GET', '/livez')).toMatchObject({ status: 200 });
  await untilReadiness(api, 503);
}

function expectToComeAgain(answer: Answer): void {
  const problem = problemOf(answer);
  expect(problem.status).toBe(503);
  expect(['database_unavailable', 'outcome_unknown']).toContain(problem.code);
  expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/);
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
