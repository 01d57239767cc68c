import type { StoredEvent } from '#src/event-store/event-store.ts';

/** A row of a read model, by column; instants are ISO 8601 in UTC. */
export type ReadModelRow = Readonly<Record<string, string | number | boolean | null>>;

/**
 * A read model with one row for each stream of a category, written in the transaction of the events.
 * The row is a pure function of the stream, so it can be checked and made again at any time.
 */
export type Projection = Readonly<{
  /** Its table. */
  table: string;
  /** The column that holds the stream id. */
  keyColumn: string;
  category: string;
  project(stream: readonly StoredEvent[]): ReadModelRow;
}>;
