import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { problemOf } from '#test/support/api-shapes.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import { eventually } from '#test/support/poll.ts';
import { startService } from '#test/support/service.ts';

const STEERED = fileURLToPath(new URL('../support/steered-clock.mjs', import.meta.url));

/*
 * A replica whose clock is wrong records nothing: the time of an event stands for ever.
 */
describe.skipIf(skipReason('postgres'))('a replica whose clock is an hour ahead', () => {
  test('says so, refuses to write, serves reads and replays, and goes on once the clock is right', async () => {
    await using database = await createTestDatabase();
    await using service = await startService({
      databaseUrl: database.url,
      env: { NODE_OPTIONS: `--import=${STEERED}`, LOG_LEVEL: 'info' },
    });
    const { api } = service;
    const first = await api.place(placeBody, { key: 'first' });
    expect(first.status).toBe(201);
    const said = (text: string) => service.log().some((line) => line.includes(text));
    const isReady = async () => (await api.request('GET', '/readyz')).status === 200;

    service.signal('SIGUSR2');
    await eventually(async () => !(await isReady()));
    expect((await api.request('GET', '/readyz')).text).toContain("3600 s off the database's");
    const problem = problemOf(await api.place(placeBody, { key: 'second' }));
    expect(problem).toMatchObject({ status: 503, code: 'clock_off' });
    const { orderId } = JSON.parse(first.text);
    const payment = { amountCents: 2500, paymentId: 'p-1' };
    expect(problemOf(await api.send('pay', orderId, payment))).toMatchObject({ code: 'clock_off' });
    expect((await api.place(placeBody, { key: 'first' })).text).toBe(first.text);
    expect((await api.get(orderId)).version).toBe(1);
    expect(await api.listAll()).toHaveLength(1);
    const { text: metrics } = await api.request('GET', '/metrics');
    expect(metrics).toMatch(/^orders_clock_offset_seconds (3599|3600)/m);
    expect(said('the clock is far off')).toBe(true);

    service.signal('SIGUSR2');
    await eventually(isReady);
    expect((await api.place(placeBody, { key: 'second' })).status).toBe(201);
    expect(said('the clock is right again')).toBe(true);
    const late = `select from events where recorded_at > now() + interval '1 minute'`;
    expect(await database.query(late)).toEqual([]);
  });
});
