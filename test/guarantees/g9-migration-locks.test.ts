import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { makeRelease } from '#test/support/release.ts';
import { startService } from '#test/support/service.ts';

/*
 * G9, during a deployment: a migration that has to wait for a table does not hold up those who use it.
 */
describe.skipIf(skipReason('postgres'))(
  'while a report reads a table that a new release alters',
  () => {
    test('the replicas of the release before take commands and serve lists', async () => {
      await using database = await createTestDatabase();
      await using next = await makeRelease({
        files: { 'migrations/9999_note.sql': 'alter table orders_summary add column note text;' },
      });
      await using old = await startService({ databaseUrl: database.url });
      const first = await old.api.placeOrder();
      const report = new Client({ connectionString: database.url });
      await report.connect();
      await report.query('begin; select count(*) from orders_summary');

      const log: string[] = [];
      const starting = startService({
        databaseUrl: database.url,
        main: next.main,
        onLine: (line) => log.push(line),
      });
      await eventually(async () => log.some(isTryingAgain) || (await waitingForLocks()) > 0);
      let asked = 0;
      while (asked < 5 || log.filter(isTryingAgain).length < 2) {
        const order = await old.api.placeOrder();
        expect((await old.api.list()).data.map(({ orderId }) => orderId)).toContain(order.orderId);
        asked += 1;
      }
      await old.api.pay(first);
      await report.end();

      await using _ = await starting;
      expect(await database.query('select note from orders_summary limit 1')).toEqual([
        { note: null },
      ]);
      await old.api.placeOrder();

      async function waitingForLocks(): Promise<number> {
        const waiting = `select from pg_stat_activity where wait_event_type = 'Lock'
        and datname = current_database()`;
        return (await database.query(waiting)).length;
      }
    });

    test('an index is built beside them, without a transaction', async () => {
      await using database = await createTestDatabase();
      await using next = await makeRelease({
        files: {
          'migrations/9999_tracking.sql': `-- no transaction
-- What a run that was cut short left is not valid.
drop index concurrently if exists orders_summary_tracking;
create index concurrently orders_summary_tracking on orders_summary (tracking_number);
`,
        },
      });
      await using old = await startService({ databaseUrl: database.url });
      const [first, second] = [1, 2].map(() =>
        startService({ databaseUrl: database.url, main: next.main }),
      );
      await old.api.placeOrder();
      await using _ = await first!;
      await using __ = await second!;
      expect(
        await database.query(
          `select indisvalid from pg_index where indexrelid = 'orders_summary_tracking'::regclass`,
        ),
      ).toEqual([{ indisvalid: true }]);
    });

    test('nothing but indexes is changed without a transaction', async () => {
      await using database = await createTestDatabase();
      await using next = await makeRelease({
        files: {
          'migrations/9999_note.sql':
            '-- no transaction\nalter table orders_summary add column note text;',
        },
      });
      const start = startService({ databaseUrl: database.url, main: next.main });
      await expect(start).rejects.toThrow('9999_note.sql: without a transaction only indexes');
    });
  },
);

function isTryingAgain(line: string): boolean {
  return line.includes('trying again') && line.includes('9999_note.sql');
}
