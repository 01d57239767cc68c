import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { runOutboxCommand } from '#src/outbox/outbox-commands.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { eventsOf, insertEvents, servicePool } from './outbox-fixture.ts';

/** A database and a way to run commands on it with the rights of the service. */
async function createConsole() {
  const db = await createTestDatabase();
  const service = servicePool(db.url);
  return {
    db,
    run: async (...args: string[]) => {
      const lines: string[] = [];
      const code = await runOutboxCommand(args, service.pool, (text) => lines.push(text));
      return { code, said: lines.join('\n') };
    },
    [Symbol.asyncDispose]: async () => {
      await service[Symbol.asyncDispose]();
      await db[Symbol.asyncDispose]();
    },
  };
}

const park = (id: number, key: string) => `
  insert into outbox_parked (topic, message_key, outbox_id, ce_id, reason, epoch)
  values ('orders', '${key}', ${id}, '${key}:1', 'MESSAGE_TOO_LARGE', 4)`;
const lead = (sinceEnd: string) => `
  insert into leases values
    ('relay orders', gen_random_uuid(), 4, clock_timestamp() - interval '${sinceEnd}')`;
const audit = (db: TestDatabase) =>
  db.query('select actor, action, topic, message_key, outbox_id, reason, detail from outbox_audit');

const isWaiting = async (db: TestDatabase) => {
  const waiting = await db.query(`
    select from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query like '%delete from outbox_events%'`);
  return waiting.length > 0;
};

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

describe.skipIf(skipReason('postgres'))('npm run outbox', () => {
  test.each([
    [[], /^Usage: npm run outbox/],
    [['destroy'], /^unknown command destroy\n\nUsage/],
    [['toString'], /^unknown command toString/],
    [['skip'], /^<outboxId> is missing/],
    [['skip', '1'], /^--reason takes 1 to 500 characters/],
    [['skip', '1', '--reason', ' '], /^--reason takes/],
    [['skip', 'x', '--reason', 'y'], /^<outboxId> is a number/],
    [['retry'], /^<key> or --all is missing/],
    [['prune'], /^--older-than takes a number and s, m, h or d: 2h/],
    [['prune', '--older-than', '2 hours'], /^--older-than takes/],
    [['status', 'now'], /^now is too much/],
    [['status', '--frobnicate'], /--frobnicate/],
    [['accept-partitions'], /^<topic> is missing/],
  ])('says how it is used after %j', async (args, text) => {
    await using console = await createConsole();
    const { db, run } = console;
    const { code, said } = await run(...args);
    expect(code).toBe(2);
    expect(said).toMatch(text);
    await expect(audit(db)).resolves.toEqual([]);
  });

  test('status tells what waits, who leads and how many partitions there are', async () => {
    await using console = await createConsole();
    const { db, run } = console;
    await expect(run('status')).resolves.toEqual({
      code: 0,
      said: 'The outbox is empty and was never relayed.',
    });
    await insertEvents(db, 'orders', eventsOf(['a'], 3));
    await db.query(`update outbox_events set created_at = clock_timestamp() - interval '90 min'`);
    await db.query(park(1, 'a'));
    await db.query(`insert into outbox_topics values ('orders', 6, 12)`);
    await db.query(lead('-1 hour'));
    const { said } = await run('status');
    expect(said).toBe(
      [
        'topic orders',
        '  waiting     3, the oldest for 90 min',
        '  parked      1 keys',
        '  relay       leads, epoch 4',
        '  partitions  6, but the topic has 12 now: the relay is stopped. When consumers have ' +
          'read all that is there, run accept-partitions orders',
      ].join('\n'),
    );
  });

  test('parked lists what was refused and how much waits for it', async () => {
    await using console = await createConsole();
    const { db, run } = console;
    await expect(run('parked')).resolves.toEqual({ code: 0, said: 'Nothing is parked.' });
    await insertEvents(db, 'orders', eventsOf(['a'], 3));
    await db.query(park(1, 'a'));
    const { said } = await run('parked');
    expect(said).toContain('key a of topic orders');
    expect(said).toContain('message a:1 (outbox id 1) was refused: MESSAGE_TOO_LARGE');
    expect(said).toContain('3 of its messages wait');
  });

  test('retry frees one key or all, and is recorded', async () => {
    await using console = await createConsole();
    const { db, run } = console;
    await insertEvents(db, 'orders', eventsOf(['a', 'b', 'c'], 1));
    for (const [index, key] of ['a', 'b', 'c'].entries()) await db.query(park(index + 1, key));
    await expect(run('retry', 'b', '--by', 'ann')).resolves.toEqual({
      code: 0,
      said: '1 parked key goes out again',
    });
    expect(await audit(db)).toEqual([
      {
        actor: 'ann',
        action: 'retry',
        topic: 'orders',
        message_key: 'b',
        outbox_id: 2,
        reason: null,
        detail: { messageId: 'b:1', refusal: 'MESSAGE_TOO_LARGE' },
      },
    ]);
    await expect(run('retry', 'b')).resolves.toEqual({ code: 1, said: 'b is not parked' });
    await expect(run('retry', '--all')).resolves.toMatchObject({ code: 0 });
    await expect(run('retry', '--all')).resolves.toEqual({ code: 1, said: 'nothing is parked' });
    await expect(audit(db)).resolves.toHaveLength(3);
    await expect(db.query('select from outbox_events')).resolves.toHaveLength(3);
  });

  test('skip deletes one parked message, and is recorded with its reason', async () => {
    await using console = await createConsole();
    const { db, run } = console;
    await insertEvents(db, 'orders', eventsOf(['a'], 3));
    await expect(run('skip', '1', '--reason', 'test data')).resolves.toEqual({
      code: 1,
      said: 'message 1 is not parked',
    });
    await db.query(park(1, 'a'));
    const twice = await Promise.all([
      run('skip', '1', '--reason', 'test data', '--by', 'ann'),
      run('skip', '1', '--reason', 'test data', '--by', 'ann'),
    ]);
    expect(twice.map(({ code }) => code).toSorted((a, b) => a - b)).toEqual([0, 1]);
    const left = await db.query<{ id: number }>('select id from outbox_events');
    expect(left.map(({ id }) => id)).toEqual([2, 3]);
    await expect(db.query('select from outbox_parked')).resolves.toEqual([]);
    expect(await audit(db)).toEqual([
      {
        actor: 'ann',
        action: 'skip',
        topic: 'orders',
        message_key: 'a',
        outbox_id: 1,
        reason: 'test data',
        detail: { messageId: 'a:1', type: 'order.placed', refusal: 'MESSAGE_TOO_LARGE' },
      },
    ]);
  });

  test('prune deletes what is old enough, and is recorded', async () => {
    await using console = await createConsole();
    const { db, run } = console;
    await insertEvents(db, 'orders', eventsOf(['a'], 2_500));
    await db.query(`
        update outbox_events set created_at = clock_timestamp() - interval '3 hours' where id <= 2200`);
    await expect(run('prune', '--older-than', '2h')).resolves.toEqual({
      code: 0,
      said: 'deleted 2200 messages',
    });
    await expect(db.query('select from outbox_events')).resolves.toHaveLength(300);
    const [entry] = await audit(db);
    expect(entry).toMatchObject({ action: 'prune', detail: { count: 2_200, isForced: false } });
    expect(entry?.['actor']).toMatch(/@/);
  });

  test('parked shows nothing that the terminal would obey, whatever was stored', async () => {
    await using db = await createTestDatabase();
    const key = 'a\u001b[2J\u202e';
    await db.query(`
      insert into outbox_parked (topic, message_key, outbox_id, ce_id, reason, epoch)
      values ('orders', '${key}', 7, 'a-1', 'too large\u009b2J', 1)`);
    const { stdout } = await promisify(execFile)(process.execPath, [MAIN, 'outbox', 'parked'], {
      env: { PATH: process.env['PATH'], DATABASE_URL: db.url },
    });
    expect(stdout).toContain('key a\\u001b[2J\\u202e of topic orders\n');
    expect(stdout).toContain('too large\\u009b2J');
    expect(stdout).not.toMatch(/[\u202e\u009b]/);
  });

  test('prune that is killed midway has recorded what it deleted', async () => {
    await using db = await createTestDatabase();
    const rows = 25_000;
    await insertEvents(db, 'orders', eventsOf(['a'], rows));
    const held = new Client({ connectionString: db.url });
    await held.connect();
    await held.query('begin');
    await held.query('select from outbox_events order by id desc limit 1 for update');
    const command = ['outbox', 'prune', '--older-than', '0s', '--force'];
    const env = { PATH: process.env['PATH'], DATABASE_URL: db.url };
    const prune = spawn(process.execPath, [MAIN, ...command], { env, stdio: 'ignore' });
    const left = async () => {
      const [row] = await db.query<{ left: number }>('select count(*) as left from outbox_events');
      return row?.left ?? 0;
    };
    await eventually(async () => (await left()) < rows && (await isWaiting(db)));
    prune.kill('SIGKILL');
    await once(prune, 'exit');
    await db.query(`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`);
    await held.query('rollback');
    await held.end();
    await eventually(async () => !(await isWaiting(db)));
    const parts = await audit(db);
    const recorded = parts.map(({ detail }) => Number(Object(detail).count));
    expect(recorded.reduce((sum, count) => sum + count, 0)).toBe(rows - (await left()));
    expect(parts.length).toBeGreaterThan(0);
    for (const part of parts)
      expect(part).toMatchObject({ action: 'prune', detail: { isForced: true } });
  });

  test.each([
    ['leads', '-1 hour'],
    ['led until lately', '30 min'],
  ])('prune is refused while the service itself %s, unless forced', async (_, sinceEnd) => {
    await using console = await createConsole();
    const { db, run } = console;
    await insertEvents(db, 'orders', eventsOf(['a'], 1));
    await db.query(lead(sinceEnd));
    const { code, said } = await run('prune', '--older-than', '0s');
    expect(code).toBe(1);
    expect(said).toMatch(/may not be in Kafka/);
    await expect(db.query('select from outbox_events')).resolves.toHaveLength(1);
    await expect(run('prune', '--older-than', '0s', '--force')).resolves.toMatchObject({
      code: 0,
    });
    await expect(db.query('select from outbox_events')).resolves.toEqual([]);
  });

  test('prune works long after the service stopped publishing', async () => {
    await using console = await createConsole();
    const { db, run } = console;
    await db.query(lead('2 hours'));
    await expect(run('prune', '--older-than', '0s')).resolves.toMatchObject({ code: 0 });
  });

  test('accept-partitions takes the number that the relay found, and is recorded', async () => {
    await using console = await createConsole();
    const { db, run } = console;
    await db.query(`insert into outbox_topics values ('orders', 6, 6)`);
    await expect(run('accept-partitions', 'orders')).resolves.toEqual({
      code: 1,
      said: 'no relay found a change of partitions of topic orders',
    });
    await db.query('update outbox_topics set partitions_found = 12');
    await expect(run('accept-partitions', 'orders')).resolves.toMatchObject({ code: 0 });
    const stored = await db.query('select partitions, partitions_found from outbox_topics');
    expect(stored).toEqual([{ partitions: 12, partitions_found: 12 }]);
    expect(await audit(db)).toMatchObject([
      { action: 'accept_partitions', topic: 'orders', detail: { before: 6, now: 12 } },
    ]);
  });

  test('leaves no way to change what is recorded', async () => {
    await using db = await createTestDatabase();
    await using service = servicePool(db.url);
    for (const change of ['delete from outbox_audit', `update outbox_audit set actor = 'x'`]) {
      await expect(service.pool.query(change)).rejects.toMatchObject({ code: '42501' });
    }
  });
});
