import type { TestDatabase } from './database.ts';

/** How many rows each table has that a command may write to. */
export type RowCounts = Readonly<
  Record<'events' | 'streams' | 'summaries' | 'messages' | 'answers', number>
>;

/** To be compared before and after a request that must write nothing. */
export async function rowCounts(database: TestDatabase): Promise<RowCounts> {
  const rows = await database.query<RowCounts>(
    `select (select count(*) from events) as events, (select count(*) from streams) as streams,
            (select count(*) from orders_summary) as summaries,
            (select count(*) from outbox_events) as messages,
            (select count(*) from idempotency_keys) as answers`,
  );
  return rows[0]!;
}
