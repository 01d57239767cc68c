import { v7 as uuidv7 } from 'uuid';
import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import type { SagaWorkRow } from '#src/event-store/event-store.ts';
import { createDatabase } from '#src/database/database.ts';
import { readFulfilmentRow, readFulfilmentStates } from '#src/fulfilment/fulfilment-view.ts';
import { skipReason } from '#test/support/infra.ts';
import { append, begin, createStore, moved, unit } from '#test/support/unit-store.ts';

const refundOf = (subjectId: string, sagaId = uuidv7()): SagaWorkRow =>
  Object.assign({}, begin(sagaId, subjectId), { definition: 'refund' });
const end = (sagaId: string): SagaWorkRow =>
  Object.assign({}, moved(sagaId, 1), { state: 'completed', step: null, due_in_ms: null });
const wake = (subjectId: string): SagaWorkRow => ({ op: 'wake', subject_id: subjectId });

describe.skipIf(skipReason('postgres'))('the sagas of one order', () => {
  test('are one fulfilment and any number of refunds, live and ended', async () => {
    await using store = await createStore();
    const [subjectId, first, second] = [uuidv7(), uuidv7(), uuidv7()];
    await store.write([
      unit({ sagas: [begin(uuidv7(), subjectId)] }),
      unit({ sagas: [refundOf(subjectId, first)] }),
      unit({ sagas: [refundOf(subjectId, second)] }),
    ]);
    expect(await store.query('select from only saga_work')).toHaveLength(3);
    await expect(store.write([unit({ sagas: [begin(uuidv7(), subjectId)] })])).rejects.toThrow();

    await store.write([unit({ sagas: [end(first)] }), unit({ sagas: [end(second)] })]);
    expect(await store.query('select definition from saga_ended')).toEqual([
      { definition: 'refund' },
      { definition: 'refund' },
    ]);
  });

  test('are not woken by a cancellation, but for the fulfilment', async () => {
    await using store = await createStore();
    const [subjectId, fulfilment] = [uuidv7(), uuidv7()];
    const rows = [refundOf(subjectId), begin(fulfilment, subjectId), refundOf(subjectId)];
    await store.write(rows.map((row) => unit({ sagas: [row] })));
    await store.query(`update saga_work set due_at = clock_timestamp() + interval '1 hour'`);
    await store.write([unit({ sagas: [wake(subjectId)] })]);
    expect(
      await store.query(
        `select saga_id, state from saga_work where due_at <= clock_timestamp()
           or state <> 'running'`,
      ),
    ).toEqual([{ saga_id: fulfilment, state: 'compensating' }]);
  });

  test('do not hold up a cancellation, but for the fulfilment', async () => {
    await using store = await createStore();
    const [subjectId, refund] = [uuidv7(), uuidv7()];
    await store.write([
      unit({ sagas: [begin(uuidv7(), subjectId)] }),
      unit({ sagas: [refundOf(subjectId, refund)] }),
    ]);
    const other = new Client({ connectionString: store.url });
    await other.connect();
    const lock = (definition: string) =>
      other.query(`begin; select from saga_work where definition = '${definition}' for update`);
    await lock('refund');
    expect(await store.write([unit({ sagas: [wake(subjectId)] })])).toEqual(['ok']);
    expect(await store.write([unit({ sagas: [moved(refund, 1)] })])).toEqual(['locked']);
    await other.query('rollback');
    await lock('fulfilment');
    expect(await store.write([unit({ sagas: [wake(subjectId)] })])).toEqual(['locked']);
    await other.end();
  });

  test('do not show as the fulfilment of the order', async () => {
    await using store = await createStore();
    const [subjectId, fulfilment, refunded] = [uuidv7(), uuidv7(), uuidv7()];
    const rows = [refundOf(subjectId), begin(fulfilment, subjectId), refundOf(refunded)];
    await store.write(rows.map((row) => unit({ sagas: [row] }, [append(uuidv7())])));
    const database = createDatabase(store.url, { writersMax: 1, poolMax: 1 }, () => {});
    const { reads } = database;
    expect(await readFulfilmentRow(reads, subjectId)).toMatchObject({ sagaId: fulfilment });
    expect(await readFulfilmentRow(reads, refunded)).toBeNull();
    const states = await readFulfilmentStates(reads, [subjectId, refunded]);
    expect([...states]).toEqual([[subjectId, 'running']]);
    await database.close();
  });

  test('are found by an index in both tables, however many have ended', async () => {
    await using store = await createStore();
    await store.query(
      `insert into saga_ended (saga_id, subject_id, definition, definition_version, state, epoch)
       select gen_random_uuid(), gen_random_uuid(), 'fulfilment', 1, 'completed', 1
       from generate_series(1, 20000)`,
    );
    await store.query('analyze saga_ended');
    const plan = await store.query<Record<string, string>>(
      `explain select * from saga_work where definition = 'fulfilment'
         and subject_id = '${uuidv7()}'`,
    );
    const text = plan.flatMap((row) => Object.values(row)).join('\n');
    expect(text).toContain('saga_ended_fulfilment');
    expect(text).not.toContain('Seq Scan on saga_ended');
  });
});
