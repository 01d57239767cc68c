import type { z } from 'zod';
import type { StoredEvent } from './event-store.ts';

/** A (type, schema version) of a stored event. */
export type EventSchemaRef = Readonly<{ type: string; schemaVersion: number }>;

/** Turns the data of an event's version n into that of version n + 1. */
export type Upcast = (data: unknown) => unknown;

/**
 * Reads stored events. The newest schema version of a type is one more than the number of its upcasts:
 * `upcasts[type][0]` lifts version 1 to 2, and so on.
 */
export type EventCodec<Event extends Readonly<{ type: string; data: unknown }>> = Readonly<{
  /** @throws EventUnreadable on an unknown type or version, or on data that is not of its schema */
  decode(stored: Pick<StoredEvent, 'type' | 'schemaVersion' | 'data'>): Event;
  /** The schema version that a new event of this type is stored with. */
  schemaVersion(type: Event['type']): number;
  /** Every (type, version) that `decode` can read. */
  readable: readonly EventSchemaRef[];
}>;

/** Stored history that this build cannot read: it must not be skipped, so nothing goes on. */
export class EventUnreadable extends Error {
  constructor({ type, schemaVersion }: EventSchemaRef, why: string, cause?: unknown) {
    super(`stored event ${type} of schema version ${schemaVersion} ${why}`, { cause });
    this.name = 'EventUnreadable';
  }
}

export function createEventCodec<Event extends Readonly<{ type: string; data: unknown }>>(
  schema: z.ZodType<Event>,
  upcasts: Readonly<Record<Event['type'], readonly Upcast[]>>,
): EventCodec<Event> {
  const byType = new Map<string, readonly Upcast[]>(Object.entries(upcasts));
  return {
    decode({ type, schemaVersion, data }) {
      const lifts = byType.get(type);
      if (!lifts || schemaVersion < 1 || schemaVersion > lifts.length + 1) {
        throw new EventUnreadable({ type, schemaVersion }, 'is not known to this version');
      }
      const lifted = lifts.slice(schemaVersion - 1).reduce((older, lift) => lift(older), data);
      const result = schema.safeParse({ type, data: lifted });
      if (result.success) return result.data;
      throw new EventUnreadable({ type, schemaVersion }, 'has unexpected data', result.error);
    },
    schemaVersion: (type) => upcasts[type].length + 1,
    readable: [...byType].flatMap(([type, lifts]) =>
      Array.from({ length: lifts.length + 1 }, (_, older) => ({ type, schemaVersion: older + 1 })),
    ),
  };
}
