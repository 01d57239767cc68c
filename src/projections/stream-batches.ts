import type { Pool, PoolClient } from 'pg';
import { withClient } from '#src/database/with-client.ts';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import { EVENT_COLUMNS, toStoredEvent } from '#src/event-store/postgres-event-store.ts';
import type { EventRow } from '#src/event-store/postgres-event-store.ts';

const STREAMS_MAX = 500;
const FIRST_ID = '00000000-0000-0000-0000-000000000000';

/** Streams of one category, whole, by id; the last one's id is where the next batch goes on. */
export type StreamBatch = Readonly<{
  streams: ReadonlyMap<string, readonly StoredEvent[]>;
  lastId: string;
}>;

/**
 * Calls `use` with every stream of a category, a few hundred at a time, each batch in a transaction of
 * its own. `lock` holds off appends to the batch until its transaction ends.
 */
export async function forEachStreamBatch(
  pool: Pool,
  category: string,
  mode: 'read' | 'lock',
  use: (client: PoolClient, batch: StreamBatch) => Promise<void>,
): Promise<void> {
  let after: string | undefined = FIRST_ID;
  while (after !== undefined) {
    const from: string = after;
    after = await inTransaction(pool, mode, async (client) => {
      const batch = await loadBatch(client, category, from, mode);
      if (!batch) return undefined;
      await use(client, batch);
      return batch.lastId;
    });
  }
}

/** All that `read` sees is of one moment; `lock` sees the newest and may write. */
export function inTransaction<Result>(
  pool: Pool,
  mode: 'read' | 'lock',
  use: (client: PoolClient) => Promise<Result>,
): Promise<Result> {
  return withClient(pool, async (client) => {
    await client.query(
      mode === 'read' ? 'begin isolation level repeatable read read only' : 'begin',
    );
    const result = await use(client);
    await client.query('commit');
    return result;
  });
}

async function loadBatch(
  client: PoolClient,
  category: string,
  after: string,
  mode: 'read' | 'lock',
): Promise<StreamBatch | undefined> {
  const { rows: ids } = await client.query<{ stream_id: string }>(
    `select stream_id from streams where category = $1 and stream_id > $2
     order by stream_id limit $3 ${mode === 'lock' ? 'for update' : ''}`,
    [category, after, STREAMS_MAX],
  );
  const lastId = ids.at(-1)?.stream_id;
  if (lastId === undefined) return undefined;
  const streams = await loadStreams(
    client,
    ids.map((row) => row.stream_id),
  );
  return { streams, lastId };
}

/** The events of each of these streams. */
export async function loadStreams(
  client: PoolClient,
  ids: readonly string[],
): Promise<Map<string, StoredEvent[]>> {
  const { rows } = await client.query<EventRow>(
    `select ${EVENT_COLUMNS} from events where stream_id = any($1::uuid[])
     order by stream_id, version`,
    [ids],
  );
  const streams = new Map<string, StoredEvent[]>(ids.map((id) => [id, []]));
  for (const row of rows) streams.get(row.stream_id)?.push(toStoredEvent(row));
  return streams;
}
