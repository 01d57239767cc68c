import { randomUUID } from 'node:crypto';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { orderOf, problemOf } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import type { OrderApi } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';
import { startTcpProxy } from '#test/support/tcp-proxy.ts';
import type { TcpProxy } from '#test/support/tcp-proxy.ts';
import { verifyDatabase } from '#test/support/verify-database.ts';

/*
 * G9, with errors of Postgres provoked for real: a full disk, a statement that takes too long, a lock that is
 * not had, a connection cut by the server. The command that meets one fails alone.
 */
const FAULTS = `
  create function meet_fault() returns trigger language plpgsql as $$
  begin
    if new.data->>'customerId' like 'disk-full%' then
      raise exception 'could not extend file: No space left on device' using errcode = '53100';
    elsif new.data->>'customerId' like 'slow%' then
      perform pg_sleep(60);
    elsif new.data->>'customerId' like 'bug%' then
      raise exception 'a constraint that nobody thought of' using errcode = '23514';
    end if;
    return new;
  end $$;
  create trigger meet_fault before insert on events for each row execute function meet_fault();`;

describe.skipIf(skipReason('postgres'))('a command that meets', () => {
  let database: TestDatabase;
  let proxy: TcpProxy;
  let service: TestService;
  let api: OrderApi;

  beforeAll(async () => {
    database = await createTestDatabase();
    await database.query(FAULTS);
    proxy = await startTcpProxy(database.url);
    service = await startService({ databaseUrl: proxy.url });
    ({ api } = service);
  });
  afterAll(async () => {
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    await service[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  /** Both slots are busy meanwhile, so that all of them meet in one batch. */
  async function inOneBatch(
    commands: ReadonlyArray<() => Promise<HttpResponse>>,
  ): Promise<HttpResponse[]> {
    const held = [];
    const first: Promise<HttpResponse>[] = [];
    for (const customerId of [randomUUID(), randomUUID()]) {
      const trap = proxy.trap(customerId, 'hold');
      first.push(api.place({ ...placeBody, customerId }));
      await trap.sprung;
      held.push(trap);
    }
    const all = commands.map((send) => send());
    await untilQueued(service, commands.length);
    for (const trap of held) trap.release();
    for (const response of await Promise.all(first)) orderOf(response);
    return Promise.all(all);
  }

  const placeAs = (name: string, key = randomUUID()) =>
    api.place({ ...placeBody, customerId: name }, { key });

  test.each([
    // What ails Postgres as a whole may be told to those of the same commit too.
    ['a full disk', 'disk-full', 503, 'database_unavailable'],
    ['a statement that takes too long', 'slow', 503, 'database_unavailable'],
    ['a fault of the service itself', 'bug', 500, 'internal'],
  ])(
    '%s takes no other command down, and nothing of it is written',
    async (_, name, status, code) => {
      const before = await rowCounts(database);
      const key = randomUUID();
      const paid = await api.placeOrder();
      const payment = { paymentId: 'p', amountCents: paid.totalCents };
      const [failed, ...others] = await inOneBatch([
        () => placeAs(name, key),
        () => api.send('pay', paid.orderId, payment, { key: randomUUID() }),
        ...Array.from({ length: 4 }, (_, index) => () => placeAs(`c-${index}`)),
      ]);
      expect(problemOf(failed!)).toMatchObject({ status, code });
      if (status === 503) expect(failed!.headers['retry-after']).toMatch(/^[1-9]\d*$/);
      expect(failed!.text).not.toMatch(/insert|constraint|write_units|No space/);
      const isHit = (response: HttpResponse) => status === 503 && problemOf(response).code === code;
      const written = others.filter((response) => response.status < 300 || !isHit(response));
      for (const response of written) orderOf(response);
      const after = await rowCounts(database);
      expect(after.events - before.events).toBe(1 + 2 + written.length);
      expect(after.responses - before.responses).toBe(written.length);
      expect(await database.query(`select from idempotency_keys where key = $1`, [key])).toEqual(
        [],
      );
    },
  );

  test('a lock that somebody keeps is told to come again, and the others go on', async () => {
    const order = await api.placeOrder();
    const other = await api.placeOrder();
    const payment = { paymentId: 'p', amountCents: order.totalCents };
    const pay = (orderId: string, key = randomUUID()) => api.send('pay', orderId, payment, { key });
    const key = randomUUID();
    await using blocker = await lockOn(order.orderId);
    const [blocked, free, placed] = await inOneBatch([
      () => pay(order.orderId, key),
      () => pay(other.orderId),
      () => placeAs('c-2'),
    ]);
    expect(problemOf(blocked!)).toMatchObject({ status: 503, code: 'database_unavailable' });
    expect(blocked!.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    expect([free!.status, placed!.status]).toEqual([200, 201]);
    expect(await api.get(order.orderId)).toEqual(order);
    await blocker.release();
    expect(orderOf(await pay(order.orderId, key))).toMatchObject({ status: 'paid', version: 2 });
  });

  test('the end of its connection is not sent again by the service, and settled by its key', async () => {
    const order = await api.placeOrder();
    const key = randomUUID();
    const cancel = () => api.send('cancel', order.orderId, { reason: 'r' }, { key });
    await database.query(
      `create function cut() returns trigger security definer language plpgsql as
         'begin perform pg_terminate_backend(pg_backend_pid()); return new; end';
       create trigger cut before insert on events for each row execute function cut();`,
    );
    const response = await cancel();
    expect(problemOf(response)).toMatchObject({ status: 503, code: 'outcome_unknown' });
    expect(response.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    await database.query('drop trigger cut on events');
    expect(orderOf(await cancel())).toMatchObject({ status: 'cancelled', version: 2 });
    expect(orderOf(await cancel())).toMatchObject({ status: 'cancelled', version: 2 });
  });

  test('a disk that is full for everybody gets no 2xx until there is room again', async () => {
    await database.query(
      `create function no_room() returns trigger language plpgsql as
         'begin raise exception ''no room'' using errcode = ''53100''; end';
       create trigger no_room before insert on streams for each row execute function no_room();`,
    );
    const before = await rowCounts(database);
    const keys = Array.from({ length: 12 }, () => randomUUID());
    for (const response of await Promise.all(keys.map((key) => placeAs('c-1', key)))) {
      expect(problemOf(response)).toMatchObject({ status: 503, code: 'database_unavailable' });
    }
    expect(await rowCounts(database)).toEqual(before);
    await database.query('drop trigger no_room on streams');
    for (const response of await Promise.all(keys.map((key) => placeAs('c-1', key))))
      orderOf(response);
    const after = await rowCounts(database);
    expect(after.events - before.events).toBe(keys.length);
  });

  /** A transaction of somebody else that keeps the row of the stream. */
  async function lockOn(orderId: string) {
    const client = new Client({ connectionString: database.url });
    await client.connect();
    await client.query('begin');
    await client.query('select from streams where stream_id = $1 for update', [orderId]);
    return {
      release: () => client.query('rollback'),
      [Symbol.asyncDispose]: () => client.end(),
    };
  }
});

/** As the metrics tell it. */
async function untilQueued({ api }: TestService, count: number): Promise<void> {
  await expect
    .poll(async () => (await api.request('GET', '/metrics')).text)
    .toMatch(new RegExp(`queue\\S* ${count}\\n`));
}
