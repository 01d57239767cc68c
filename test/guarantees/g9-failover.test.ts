import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { startPostgresPair } from '#test/support/faulty-servers.ts';
import type { FaultyPostgres, PostgresPair } from '#test/support/faulty-servers.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import type { TcpProxy } from '#test/support/tcp-proxy.ts';

/*
 * G4 and G9, where the address of Postgres leads to another server for a while, as it does around a failover:
 * a proxy that has not noticed yet, or a DNS name. The standby is a real one.
 */
const READS = 12; // more than the connections for reads that are open

describe.skipIf(skipReason('postgres'))('where the address of Postgres', () => {
  let pair: PostgresPair;
  let proxy: TcpProxy;
  let service: TestService;

  beforeAll(async () => {
    pair = await startPostgresPair();
  });
  afterAll(() => pair[Symbol.asyncDispose]());
  beforeEach(async () => {
    proxy = await startTcpProxy(pair.primary.url);
    service = await startService({ databaseUrl: proxy.url });
  });
  afterEach(async () => {
    await service[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
  });

  test('leads to a standby and back, callers hear 503 meanwhile, and are served again after', async () => {
    const { api } = service;
    const { orderId } = await api.placeOrder();
    proxy.leadTo(pair.standby.url);
    proxy.cut();
    await expect.poll(async () => (await api.request('GET', '/readyz')).status).toBe(503);
    expect(problemOf(await api.place(placeBody))).toMatchObject(UNAVAILABLE);
    expect(problemOf(await api.request('GET', `/v1/orders/${orderId}`))).toMatchObject(UNAVAILABLE);
    const recount = await api.request('PUT', '/v1/stock/book', { body: { onHand: 1 } });
    expect(problemOf(recount)).toMatchObject(UNAVAILABLE);

    proxy.leadTo(pair.primary.url);
    await expect.poll(async () => (await api.request('GET', '/readyz')).status).toBe(200);
    await eventually(async () => (await api.place(placeBody)).status === 201);
    expect((await api.get(orderId)).orderId).toBe(orderId);
  });

  test('leads new connections to a standby, no read misses what was written before', async () => {
    const { api } = service;
    await pair.standby.query('select pg_wal_replay_pause()');
    const { orderId } = await api.placeOrder();
    proxy.leadTo(pair.standby.url);
    const reads = await Promise.all(
      Array.from({ length: READS }, () => api.request('GET', `/v1/orders/${orderId}`)),
    );
    for (const { status } of reads) expect([200, 503]).toContain(status);
    await pair.standby.query('select pg_wal_replay_resume()');
  });

  test('leads to the standby that was promoted, no read comes from the former primary', async () => {
    const { api } = service;
    const { orderId } = await api.placeOrder();
    await Promise.all(Array.from({ length: READS }, () => api.get(orderId))); // opens connections
    await eventually(() => isAt(pair.standby, orderId));
    await pair.standby.query('select pg_promote()');
    proxy.leadTo(pair.standby.url);
    let written = '';
    await eventually(async () => {
      await pair.primary.query(END_OF_WRITERS);
      const placed = await api.place(placeBody);
      if (placed.status !== 201) return false;
      written = orderOf(placed).orderId;
      return isAt(pair.standby, written);
    });
    const reads = await Promise.all(Array.from({ length: READS }, () => api.get(written)));
    expect(new Set(reads.map((order) => order.orderId))).toEqual(new Set([written]));

    proxy.leadTo(pair.primary.url);
    await pair.standby.query(END_OF_ALL);
    await expect.poll(async () => (await api.request('GET', '/readyz')).status).toBe(503);
    expect(problemOf(await api.place(placeBody))).toMatchObject(UNAVAILABLE);
  });
});

const UNAVAILABLE = { status: 503, code: 'database_unavailable' };
const END_OF_ALL = `select pg_terminate_backend(pid) from pg_stat_activity
  where application_name = 'order-service'`;
/** Of a session it is known who writes by what it ran last. */
const END_OF_WRITERS = `${END_OF_ALL} and query not like '%recorded_at%order by version%'`;

async function isAt(server: Pick<FaultyPostgres, 'query'>, orderId: string): Promise<boolean> {
  return (await server.query(`select from events where stream_id = '${orderId}'`)).length === 1;
}
