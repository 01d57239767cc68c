import { describe, expect, test } from 'vitest';
import { bearer, createKey, keyIdOf, runKeys } from '#test/support/api-keys.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createOrderApi, placeBody } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { refusalOf } from '#test/support/saga/api.ts';
import { startService } from '#test/support/service.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';

/** A key that was revoked longer ago works on no replica. */
const REVOKED_WITHIN_MS = 5_000;
/** Requests that each client still sends after its first refusal. */
const AFTER_REFUSAL = 50;

type Sent = Readonly<{ sentAtMs: number; status: number }>;

describe.skipIf(skipReason('postgres'))('a revoked key', () => {
  test('ends on every replica within 5 seconds, while its clients send', async () => {
    await using database = await createTestDatabase();
    const replica = () => startService({ databaseUrl: database.url, env: { AUTH: 'on' } });
    await using one = await replica();
    await using two = await replica();
    const key = await createKey(database.url, { scopes: ['orders:write'] });
    const other = await createKey(database.url, { scopes: ['orders:write'] });

    const ends = new AbortController();
    const clients = [one, one, two, two].map(({ url }) => send(url, key, ends.signal));
    const others = [one, two].map(({ url }) => send(url, other, ends.signal));
    const all = [...clients, ...others];
    await eventually(() => all.every(({ sent }) => sent.length > 20));
    await runKeys(database.url, 'revoke', keyIdOf(key));
    const revokedAtMs = performance.now();
    await Promise.all(clients.map(({ ended }) => ended));
    ends.abort();
    await Promise.all(others.map(({ ended }) => ended));

    for (const { sent } of clients) {
      const late = sent.filter(({ sentAtMs }) => sentAtMs > revokedAtMs + REVOKED_WITHIN_MS);
      expect(late.filter(({ status }) => status !== 401)).toEqual([]);
      const statuses = sent.map(({ status }) => status);
      const accepted = statuses.lastIndexOf(201) + 1;
      expect(new Set(statuses.slice(0, accepted))).toEqual(new Set([201]));
      expect(statuses.slice(accepted)).toEqual(Array.from({ length: AFTER_REFUSAL }, () => 401));
    }
    for (const { sent } of others) expect(sent.every(({ status }) => status === 201)).toBe(true);
    const placed = all.flatMap(({ sent }) => sent).filter(({ status }) => status === 201);
    expect(await database.query('select count(*) from orders_summary')).toEqual([
      { count: placed.length },
    ]);
  });

  test('lets nobody in at a replica that cannot read the keys, not even another key', async () => {
    await using database = await createTestDatabase();
    await using proxy = await startTcpProxy(database.url);
    await using replica = await startService({ databaseUrl: proxy.url, env: { AUTH: 'on' } });
    const [revoked, other] = [await createKey(database.url), await createKey(database.url)];
    const ask = async (key: string) => {
      const { api } = replica;
      const response = await api.request('GET', '/v1/orders', { headers: bearer(key) });
      return response.status === 200 ? '200' : refusalOf(response);
    };
    expect([await ask(revoked), await ask(other)]).toEqual(['200', '200']);
    proxy.leadTo('postgres://127.0.0.1:1/');
    proxy.cut();
    await runKeys(database.url, 'revoke', keyIdOf(revoked));
    const unavailable = '503 authentication_unavailable';
    await eventually(async () => (await ask(revoked)) === unavailable);
    expect(await ask(other)).toBe(unavailable);
    expect((await replica.api.request('GET', '/livez')).status).toBe(200);
    proxy.leadTo(database.url);
    await eventually(async () => (await ask(other)) === '200');
    expect(await ask(revoked)).toBe('401 unauthenticated');
  });
});

/** Places orders one after another, until it has been refused often enough or is told to end. */
function send(url: string, key: string, end: AbortSignal) {
  const api = createOrderApi(url, bearer(key));
  const sent: Sent[] = [];
  const run = async () => {
    for (let refused = 0; refused < AFTER_REFUSAL && !end.aborted;) {
      const sentAtMs = performance.now();
      const { status } = await api.place(placeBody);
      sent.push({ sentAtMs, status });
      if (status !== 201) refused += 1;
    }
    api.close();
  };
  return { sent, ended: run() };
}
