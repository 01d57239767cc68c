import type { Pool, PoolClient } from 'pg';
import { EventUnreadable } from './event-codec.ts';
import type { EventSchemaRef } from './event-codec.ts';
import type { Unit } from './event-store.ts';

/**
 * Makes sure, before anything is served, that this build can read whatever the log may hold. What can be
 * read and was never written stops nobody: a release can be gone back from until it has used what is new.
 * @throws EventUnreadable
 */
export async function requireReadable(
  pool: Pool,
  readable: readonly EventSchemaRef[],
): Promise<void> {
  const known = new Set(readable.map(nameOf));
  const { rows } = await pool.query<{ type: string; schema_version: number }>(
    'select type, schema_version from event_schemas order by 1, 2',
  );
  for (const { type, schema_version: schemaVersion } of rows) {
    if (!known.has(nameOf({ type, schemaVersion }))) {
      throw new EventUnreadable(
        { type, schemaVersion },
        'may be in the log, and is not known here',
      );
    }
  }
}

/** Says in `event_schemas`, before events are written for the first time, that the log may hold them. */
export type AnnounceEvents = (client: PoolClient, units: readonly Unit<unknown>[]) => Promise<void>;

/**
 * Remembers what was announced for each connection, not for the process: behind a new one may be a
 * database that went back in time, by a restore or a fail-over.
 */
export function createAnnounceEvents(): AnnounceEvents {
  const announced = new WeakMap<PoolClient, Set<string>>();
  return async (client, units) => {
    const known = announced.get(client) ?? new Set();
    const events = units.flatMap(({ appends }) => appends.flatMap((append) => append.events));
    const fresh = new Map<string, EventSchemaRef>(
      events.flatMap((event) => (known.has(nameOf(event)) ? [] : [[nameOf(event), event]])),
    );
    if (fresh.size === 0) return;
    const refs = [...fresh.values()];
    await client.query(
      `insert into event_schemas (type, schema_version)
       select * from unnest($1::text[], $2::smallint[]) order by 1, 2 on conflict do nothing`,
      [refs.map(({ type }) => type), refs.map(({ schemaVersion }) => schemaVersion)],
    );
    announced.set(client, new Set([...known, ...fresh.keys()]));
  };
}

function nameOf({ type, schemaVersion }: EventSchemaRef): string {
  return `${type}@${schemaVersion}`;
}
