import { randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import { checkHistory } from '#test/support/checker.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createRecorder } from '#test/support/recorder.ts';
import type { Call } from '#test/support/recorder.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';

/*
 * SIGTERM: requests in progress are completed, no connection is reset during a request, and the process ends
 * with 0 in less than 10 s, even if clients keep their connections open.
 */
const STOP_MS_MAX = 10_000;

describe.skipIf(skipReason('postgres'))('on SIGTERM the service', () => {
  test('completes the requests in progress, and then ends even if no client closes its connection', async () => {
    await using database = await createTestDatabase();
    await using proxy = await startTcpProxy(database.url);
    await using service = await startService({ databaseUrl: proxy.url });
    const recorder = createRecorder();
    const orderId = (await recorder.place(service.api)).orderId!;
    const held = [];
    const underWay: Promise<Call>[] = [];
    for (const token of [randomUUID(), randomUUID()]) {
      const trap = proxy.trap(token, 'hold');
      underWay.push(recorder.place(service.api, { token }));
      await trap.sprung;
      held.push(trap);
    }
    const trap = proxy.trap(orderId, 'hold');
    const read = recorder.read(service.api, orderId);
    await trap.sprung;
    held.push(trap);
    // These wait for a commit that has not begun.
    underWay.push(...Array.from({ length: 8 }, () => recorder.place(service.api)));
    await untilQueued(service, 8);
    const ended = service.terminate();
    await untilDraining(service);
    for (const trap of held) trap.release();

    for (const call of await Promise.all([...underWay, read])) {
      expect(call).toMatchObject({ outcome: 'ok', order: { version: 1 } });
      expect(call.response?.headers['connection']).toBe('close');
    }
    const { code, tookMs } = await ended;
    expect(code).toBe(0);
    expect(tookMs).toBeLessThan(STOP_MS_MAX);
    expect(await checkHistory(recorder.calls, database.url, { relay: 'off' })).toEqual([]);
  });

  test('resets no request of busy clients', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({
      databaseUrl: database.url,
      env: { SHUTDOWN_DELAY_MS: '2000' },
    });
    const recorder = createRecorder();
    const client = async () => {
      for (;;) {
        const call = await recorder.place(service.api);
        if (call.outcome !== 'ok') return call;
        if (call.response?.headers['connection'] === 'close') return call;
      }
    };
    const clients = Array.from({ length: 12 }, client);
    await expect.poll(() => recorder.calls.length).toBeGreaterThan(50);
    const { code, tookMs } = await service.terminate();
    for (const last of await Promise.all(clients)) {
      expect(last).toMatchObject({ outcome: 'ok' });
    }
    expect(code).toBe(0);
    expect(tookMs).toBeLessThan(STOP_MS_MAX);
    expect(await checkHistory(recorder.calls, database.url, { relay: 'off' })).toEqual([]);
  });

  test('reports that it is draining, and still serves for a while', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({
      databaseUrl: database.url,
      env: { SHUTDOWN_DELAY_MS: '5000' },
    });
    const ended = service.terminate();
    await untilDraining(service);
    expect(await service.api.request('GET', '/livez')).toMatchObject({ status: 200 });
    const order = await service.api.placeOrder();
    expect(await service.api.get(order.orderId)).toEqual(order);
    expect(await ended).toMatchObject({ code: 0 });
  });

  test('does not wait for a client that never ends its request', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const { hostname, port } = new URL(service.url);
    const socket = connect(Number(port), hostname);
    socket.on('error', () => {});
    await new Promise((resolve) => socket.once('connect', resolve));
    socket.write('POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n');
    await new Promise((resolve) => socket.write('Content-Length: 100\r\n\r\n{"cust', resolve));
    await service.api.placeOrder();
    const { code, tookMs } = await service.terminate();
    socket.destroy();
    expect(code).toBe(0);
    expect(tookMs).toBeLessThan(STOP_MS_MAX);
  });
});

async function untilQueued({ api }: TestService, count: number): Promise<void> {
  await expect
    .poll(async () => (await api.request('GET', '/metrics')).text)
    .toContain(`orders_command_queue_length ${count}\n`);
}

/** Over connections of its own, which may be refused already. */
async function untilDraining({ api }: TestService): Promise<void> {
  const readiness = () =>
    api.request('GET', '/readyz').then(
      ({ status }) => status,
      () => 'closed',
    );
  await expect.poll(readiness).not.toBe(200);
}
