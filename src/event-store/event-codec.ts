import type { z } from 'zod';
import type { StoredEvent } from './event-store.ts';

/** A (type, schema version) of a stored event. */
export type EventSchemaRef = Readonly<{ type: string; schemaVersion: number }>;

/** Turns the data of an event's version n into that of version n + 1. */
export type Upcast = (data: unknown) => unknown;

/** Turns the data of an event's version n + 1 into that of version n. */
export type Downcast = (data: unknown) => unknown;

/**
 * Reads stored events. The version of a type that is written is one more than the number of its upcasts:
 * `upcasts[type][0]` lifts version 1 to 2, and so on. Versions that the next release writes are read by
 * downcasts: `downcasts[type][0]` takes the first of them down to the one that is written here.
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
  downcasts?: Readonly<Partial<Record<Event['type'], readonly Downcast[]>>>,
): EventCodec<Event> {
  const upwards = new Map<string, readonly Upcast[]>(Object.entries(upcasts));
  const downwards = new Map(Object.entries<readonly Downcast[] | undefined>(downcasts ?? {}));
  /** What to apply to the data of each version, the first version first. */
  const casts = new Map(
    [...upwards].map(([type, up]) => {
      const down = downwards.get(type) ?? [];
      const older = up.map((_, index) => up.slice(index));
      const newer = down.map((_, index) => down.slice(0, index + 1).toReversed());
      return [type, [...older, [], ...newer]] as const;
    }),
  );
  return {
    decode({ type, schemaVersion, data }) {
      const steps = casts.get(type)?.[schemaVersion - 1];
      if (!steps)
        throw new EventUnreadable({ type, schemaVersion }, 'is not known to this version');
      const cast = steps.reduce((other, step) => step(other), data);
      const result = schema.safeParse({ type, data: cast });
      if (result.success) return result.data;
      throw new EventUnreadable({ type, schemaVersion }, 'has unexpected data', result.error);
    },
    schemaVersion: (type) => upcasts[type].length + 1,
    readable: [...casts].flatMap(([type, versions]) =>
      versions.map((_, older) => ({ type, schemaVersion: older + 1 })),
    ),
  };
}
