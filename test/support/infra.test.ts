import { describe, expect, test } from 'vitest';
import { createTestDatabase } from './database.ts';
import { startFaultyPostgres } from './faulty-servers.ts';
import { skipReason } from './infra.ts';
import { createTestTopic, readTopic } from './kafka.ts';
import { eventually } from './poll.ts';

describe('eventually', () => {
  test('returns the value of the first check that holds', async () => {
    const responses = [false, 'not yet', 42];
    const check = () => {
      const response = responses.shift();
      if (response === 'not yet') throw new Error(response);
      return response;
    };
    expect(await eventually(check)).toBe(42);
  });

  test('fails at the deadline with what the check said last', async () => {
    const failing = eventually(() => Promise.reject(new Error('still two')), { withinMs: 1 });
    await expect(failing).rejects.toThrow('still two');
  });
});

describe.skipIf(skipReason('postgres'))('a test database', () => {
  test('is migrated, empty and nobody else’s', async () => {
    await using one = await createTestDatabase();
    await using other = await createTestDatabase();
    await one.query(`insert into streams values (gen_random_uuid(), 'order', 1)`);
    expect(await one.query('select count(*) as streams from streams')).toEqual([{ streams: 1 }]);
    expect(await other.query('select count(*) as streams from streams')).toEqual([{ streams: 0 }]);
  });
});

describe.skipIf(skipReason('postgres'))('a faulty Postgres', () => {
  test('has what was committed after a kill, and is frozen while paused', async () => {
    await using postgres = await startFaultyPostgres();
    await postgres.query('create table kept as select 42 as response');
    await postgres.kill();
    await expect(postgres.query('select 1')).rejects.toThrow('ECONNREFUSED');
    await postgres.start();
    expect(await postgres.query('select response from kept')).toEqual([{ response: 42 }]);
    await postgres.pause();
    const response = postgres.query('select 1 as one');
    await expect(eventually(() => settled(response), { withinMs: 200 })).rejects.toThrow(
      'not within',
    );
    await postgres.resume();
    expect(await response).toEqual([{ one: 1 }]);
  });
});

describe.skipIf(skipReason('kafka'))('reading a topic', () => {
  test('fails at the deadline with what was read', async () => {
    await using topic = await createTestTopic(2);
    const read = readTopic(topic.name, { until: (all) => all.length > 0, withinMs: 1 });
    await expect(read).rejects.toThrow('read 0, Error: not within 1 ms');
  });
});

/** Whether the promise is settled. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol('pending');
  return (await Promise.race([promise, Promise.resolve(pending)])) !== pending;
}
