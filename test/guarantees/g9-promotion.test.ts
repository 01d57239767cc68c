import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { orderOf } from '#test/support/api-shapes.ts';
import { startPostgresPair } from '#test/support/faulty-servers.ts';
import type { PostgresPair } from '#test/support/faulty-servers.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * G1, G4 and G9, where DATABASE_URL names a primary and its standby, the standby is promoted, and nobody stops the
 * former primary.
 */
const CLIENTS = 4;
const ORDERS = 40;

describe.skipIf(skipReason('postgres'))('while a standby is promoted, the service', () => {
  let pair: PostgresPair;

  beforeEach(async () => {
    pair = await startPostgresPair();
  });
  afterEach(() => pair[Symbol.asyncDispose]());

  test('moves to it by itself and loses nothing that it confirmed, if replication is synchronous', async () => {
    const { primary, standby } = pair;
    await primary.query(`alter system set synchronous_standby_names = '*'`);
    await primary.query('select pg_reload_conf()');
    await using service = await startService({ databaseUrl: pair.url });
    const load = startLoad(service);
    await load.untilConfirmed(ORDERS);
    await primary.pause();
    await standby.query('select pg_promote()');
    await load.untilConfirmed(ORDERS);

    await primary.resume();
    const [resumed] = await primary.query<{ at: string }>('select clock_timestamp()::text as at');
    await load.untilConfirmed(ORDERS);
    const confirmed = await load.stop();
    expect(await missing(standby, confirmed)).toEqual([]);
    const used = await primary.query(
      `select query from pg_stat_activity
       where application_name = 'order-service' and query_start > $1`,
      [resumed!.at],
    );
    expect(used).toEqual([]);
  });

  test('moves to it although the former primary still responds, and starts on it', async () => {
    const { standby } = pair;
    await using service = await startService({ databaseUrl: pair.url });
    const first = await service.api.placeOrder();
    await eventually(async () => (await missing(standby, [first.orderId])).length === 0);
    await standby.query('select pg_promote()');
    let moved = '';
    await eventually(async () => {
      moved = orderOf(await service.api.place(placeBody)).orderId;
      return (await missing(standby, [moved])).length === 0;
    });
    const { host } = new URL(standby.url);
    expect(service.log().join('\n')).toContain(
      `"host":"${host}","msg":"moved to another primary of the database"`,
    );
    await using other = await startService({ databaseUrl: pair.url });
    const orders = await Promise.all(
      [service, other].flatMap(({ api }) => Array.from({ length: 8 }, () => api.placeOrder())),
    );
    const ids = orders.map(({ orderId }) => orderId);
    expect(await missing(standby, [moved, ...ids])).toEqual([]);
    for (const { api } of [service, other]) {
      await Promise.all(ids.map((orderId) => api.get(orderId)));
    }
  });
});

/** Places orders until it is stopped. Each order that was confirmed is read at once. */
function startLoad({ api }: TestService) {
  const confirmed: string[] = [];
  const stopping = new AbortController();
  const clients = Array.from({ length: CLIENTS }, async () => {
    while (!stopping.signal.aborted) {
      const placed = await api.place(placeBody);
      if (placed.status !== 201) {
        expect(placed.status).toBe(503);
        continue;
      }
      const { orderId } = orderOf(placed);
      confirmed.push(orderId);
      const read = await api.request('GET', `/v1/orders/${orderId}`);
      expect([200, 503]).toContain(read.status); // never a 404
    }
  });
  return {
    /** Waits until so many more orders are confirmed. */
    untilConfirmed: (count: number) => {
      const wanted = confirmed.length + count;
      return Promise.race([eventually(() => confirmed.length >= wanted), Promise.all(clients)]);
    },
    stop: async () => {
      stopping.abort();
      await Promise.all(clients);
      return confirmed;
    },
  };
}

async function missing(
  { query }: PostgresPair['standby'],
  orderIds: readonly string[],
): Promise<unknown[]> {
  return query(
    `select id from unnest($1::uuid[]) as id
     where not exists (select from events where stream_id = id)`,
    [orderIds],
  );
}
