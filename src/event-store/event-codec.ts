import type { Pool, PoolClient } from 'pg';
import type { z } from 'zod';
import type { StoredEvent, Unit } from './event-store.ts';

/** A (type, schema version) of a stored event. */
export type EventSchemaRef = Readonly<{ type: string; schemaVersion: number }>;

/** Turns the data of one schema version into that of another. */
export type Cast = (data: unknown) => unknown;

/** How the events of one type are read. */
export type EventReader<Event> = Readonly<{
  schema: z.ZodType<Event>;
  /** The first turns data of version 1 into data of version 2, and so on. The last makes what is written now. */
  upcasts: readonly Cast[];
  /** For versions that the next release writes: the first turns its first one into the one written now. */
  downcasts: readonly Cast[];
  /** Adds to data of the version that is written now the members that earlier releases did not store. */
  fill?: Cast | undefined;
}>;

/** Reads stored events. The schema version that is written is one more than the number of upcasts. */
export type EventCodec<Event extends Readonly<{ type: string; data: unknown }>> = Readonly<{
  /** @throws EventUnreadable on an unknown type or version, or on data that is not of its schema */
  decode(stored: Pick<StoredEvent, 'type' | 'schemaVersion' | 'data'>): Event;
  /** The schema version that a new event of this type is stored with. */
  schemaVersion(type: Event['type']): number;
  /** Every (type, version) that `decode` can read. */
  readable: readonly EventSchemaRef[];
}>;

/** This release cannot read a stored event. History must not be skipped, so there is no way to continue. */
export class EventUnreadable extends Error {
  constructor({ type, schemaVersion }: EventSchemaRef, why: string, cause?: unknown) {
    super(`stored event ${type} of schema version ${schemaVersion} ${why}`, { cause });
    this.name = 'EventUnreadable';
  }
}

export function createEventCodec<Event extends Readonly<{ type: string; data: unknown }>>(
  readers: Readonly<Record<Event['type'], EventReader<Event>>>,
): EventCodec<Event> {
  const byType = new Map(
    Object.entries<EventReader<Event>>(readers).map(([type, reader]) => {
      const { schema, upcasts, downcasts, fill } = reader;
      const older = upcasts.map((_, index) => upcasts.slice(index));
      const newer = downcasts.map((_, index) => downcasts.slice(0, index + 1).toReversed());
      /** What to apply to the data of each version, the first version first. */
      const casts = [...older, [], ...newer].map((list) => (fill ? list.concat(fill) : list));
      return [type, { schema, casts }] as const;
    }),
  );
  return {
    decode({ type, schemaVersion, data }) {
      const reader = byType.get(type);
      const casts = reader?.casts[schemaVersion - 1];
      if (!reader || !casts) {
        throw new EventUnreadable({ type, schemaVersion }, 'is unknown to this release');
      }
      const current = casts.reduce((other, cast) => cast(other), data);
      const result = reader.schema.safeParse({ type, data: current });
      if (result.success) return result.data;
      throw new EventUnreadable({ type, schemaVersion }, 'has unexpected data', result.error);
    },
    schemaVersion: (type: Event['type']) => readers[type].upcasts.length + 1,
    readable: [...byType].flatMap(([type, { casts }]) =>
      casts.map((_, older) => ({ type, schemaVersion: older + 1 })),
    ),
  };
}

/**
 * Checks, before anything is served, that this release can read every event that the log may hold: each type and
 * version in `event_schemas`. A release that can read more may be rolled back until it has written it.
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
        'may be in the log, but is unknown to this release',
      );
    }
  }
}

/**
 * Returns a function that adds the type and version of new events to `event_schemas`, before the first of them is
 * written. It remembers what it has added for each connection, not for the process: a new connection may lead to a
 * database that a restore or a failover has set back.
 */
export function createAnnounceEvents() {
  const announced = new WeakMap<PoolClient, Set<string>>();
  return async (client: PoolClient, units: readonly Unit[]): Promise<void> => {
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
