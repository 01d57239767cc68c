import type { SagaWorkRow } from '#src/event-store/event-store.ts';
import { Client } from 'pg';
import { v7 as uuidv7 } from 'uuid';
import { describe, expect, test } from 'vitest';
import { createDatabase } from '#src/database/database.ts';
import type { Database } from '#src/database/database.ts';
import { createPostgresUnitStore } from '#src/event-store/postgres-store.ts';
import { countLiveSagas, createClaimSagas, oldestLiveAgeSeconds } from '#src/sagas/saga-store.ts';
import { createTestDatabase } from '#test/support/database.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { append, begin, createStore, moved, unit } from '#test/support/unit-store.ts';

const claimant = {
  owner: uuidv7(),
  leaseMs: 60_000,
  definitions: [{ name: 'fulfilment', version: 1 }],
};
const ended = (sagaId: string, epoch = 1) => {
  const row = moved(sagaId, epoch);
  if (row.op !== 'advance') throw new Error('not a step');
  return { ...row, state: 'completed', step: null, due_in_ms: null } as const;
};

describe.skipIf(skipReason('postgres'))('a saga that has ended', () => {
  test('is no longer in the queue, and is still shown with the others', async () => {
    await using store = await createStore();
    const [sagaId, live, subjectId] = [uuidv7(), uuidv7(), uuidv7()];
    await store.write([
      unit({ sagas: [begin(sagaId, subjectId)] }),
      unit({ sagas: [begin(live)] }),
    ]);
    await store.write([unit({ sagas: [ended(sagaId)] })]);

    expect(await store.query('select saga_id from only saga_work')).toEqual([{ saga_id: live }]);
    const shown = 'select state from saga_work where subject_id = $1 and definition = $2';
    expect(await store.query(shown, [subjectId, 'fulfilment'])).toEqual([{ state: 'completed' }]);
    expect((await countLiveSagas(store.pool, []))['fulfilment']).toMatchObject({ running: 1 });
    expect(await oldestLiveAgeSeconds(store.pool)).toBeGreaterThan(0);
  });

  test('cannot be advanced or woken', async () => {
    await using store = await createStore();
    const [sagaId, subjectId] = [uuidv7(), uuidv7()];
    await store.write([unit({ sagas: [begin(sagaId, subjectId)] })]);
    await store.write([unit({ sagas: [ended(sagaId)] })]);
    const wake: SagaWorkRow = { op: 'wake', subject_id: subjectId };
    const late = [unit({ sagas: [moved(sagaId, 2)] }), unit({ sagas: [wake] })];
    expect(await store.write(late)).toEqual(['fenced', 'ok']);
    expect(await store.query('select state, due_at from saga_work')).toEqual([
      { state: 'completed', due_at: null },
    ]);
    expect(await createClaimSagas(store.pool, claimant)(10)).toEqual([]);
  });

  test('leaves the queue in the transaction of its last step, or stays', async () => {
    await using store = await createStore();
    const sagaId = uuidv7();
    await store.write([unit({ sagas: [begin(sagaId)] })]);
    const lost = unit({ sagas: [ended(sagaId)] }, [append(uuidv7(), 7)]);
    expect(await store.write([lost])).toEqual(['conflict']);
    expect(await store.query('select from only saga_work')).toHaveLength(1);
    expect(await store.query('select from saga_ended')).toEqual([]);
  });

  test('also leaves the queue if the previous release writes its end', async () => {
    await using store = await createStore();
    const sagaId = uuidv7();
    await store.write([unit({ sagas: [begin(sagaId)] })]);
    const sagas = JSON.stringify([{ unit: 0, ...ended(sagaId) }]);
    const old = `select * from append_units('[]', '[]', '[]', '[]', '[]', $1, '[]')`;
    expect((await store.pool.query(old, [sagas])).rows).toEqual([]);
    expect(await store.query('select from only saga_work')).toEqual([]);
    expect(await store.query('select state from saga_work')).toEqual([{ state: 'completed' }]);
  });
});

/*
 * An old snapshot, such as a backup holds, keeps every index entry that a step left behind. The counters of
 * Postgres tell what a step leaves, and how many entries a claim reads.
 */
describe.skipIf(skipReason('postgres'))('the queue of sagas', () => {
  test('gets no index entry for a step of a saga that keeps its owner', async () => {
    await using database = await createTestDatabase();
    const kept = { owner: uuidv7(), lease_ms: 600_000, due_in_ms: 600_000 } as const;
    const ids = Array.from({ length: 100 }, () => uuidv7());
    await usingService(database, async ({ writer }) => {
      const { write } = createPostgresUnitStore(writer);
      await write(ids.map((id) => unit({ sagas: [{ ...begin(id), ...kept }] })));
      for (let step = 0; step < 3; step += 1) {
        await write(ids.map((id) => unit({ sagas: [{ ...moved(id, 1), ...kept }] })));
      }
    });
    const [row] = await database.query<{ updates: number; inPage: number }>(
      `select n_tup_upd as updates, n_tup_hot_upd as "inPage" from pg_stat_user_tables
       where relname = 'saga_work'`,
    );
    expect(row!.updates).toBe(3 * ids.length);
    expect(row!.inPage).toBeGreaterThan(0.5 * row!.updates);
  });

  test('is claimed from without reading the dead entries that an old snapshot keeps', async () => {
    await using database = await createTestDatabase();
    const snapshot = new Client({ connectionString: database.url });
    await snapshot.connect();
    await snapshot.query('begin isolation level repeatable read; select from saga_work');
    const add = (count: number, due: string) =>
      database.query(
        `insert into saga_work (saga_id, subject_id, definition, definition_version, state, epoch, due_at)
         select gen_random_uuid(), gen_random_uuid(), 'fulfilment', 1, 'running', 1,
           clock_timestamp() - interval '${due}'
         from generate_series(1, ${count})`,
      );
    await add(LEFT_BEHIND, '1 hour');
    await database.query(`update saga_work set state = 'completed', due_at = null`);
    await add(3, '2 hours');
    await add(CLAIMS, '1 second');
    let claimed = 0;
    await usingService(database, async ({ pool }) => {
      const claim = createClaimSagas(pool, claimant);
      claimed += (await claim(50)).length; // looks at everything
      for (let index = 0; index < CLAIMS; index += 1) {
        await add(1, '1 second');
        claimed += (await claim(50)).length;
      }
    });
    expect(claimed).toBe(3 + 2 * CLAIMS);
    const [row] = await database.query<{ entries: number }>(
      `select idx_tup_read as entries from pg_stat_user_indexes
       where indexrelname = 'saga_work_due'`,
    );
    expect(row!.entries).toBeLessThan(2 * LEFT_BEHIND);
    await snapshot.end();
  });

  test('is claimed from in the order of due times, however far back they lie', async () => {
    await using store = await createStore();
    const claim = createClaimSagas(store.pool, claimant);
    await claim(1);
    const ids = Array.from({ length: 6 }, () => uuidv7());
    await store.write(ids.map((id) => unit({ sagas: [begin(id)] })));
    for (const [index, id] of ids.entries()) {
      await store.query(
        `update saga_work set due_at = clock_timestamp() - make_interval(secs => $1)
         where saga_id = $2`,
        [60 - index, id],
      );
    }
    const claimed = [];
    for (let index = 0; index < 3; index += 1) claimed.push(...(await claim(2)));
    expect(claimed.map(({ sagaId }) => sagaId)).toEqual(ids);
  });
});

const LEFT_BEHIND = 2_000;
const CLAIMS = 9;

/** Its counters are written when its sessions end. */
async function usingService(
  database: TestDatabase,
  use: (service: Database) => Promise<void>,
): Promise<void> {
  const service = createDatabase(database.url, { writersMax: 1, poolMax: 2 }, () => {});
  await use(service);
  await service.close();
  await eventually(async () => {
    const rows = await database.query(
      `select from pg_stat_activity
       where datname = current_database() and application_name = 'order-service'`,
    );
    return rows.length === 0;
  });
}
