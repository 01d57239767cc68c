import type { WriteFailure } from '#src/database/database-errors.ts';

/** Who and what caused an event. `traceparent` is the W3C trace context of the request. */
export type EventMetadata = Readonly<{
  correlationId: string;
  causationId?: string;
  actor: string;
  traceparent?: string;
}>;

/** An event to append. `recordedAt` is an ISO 8601 instant in UTC, to the millisecond. */
export type NewEvent = Readonly<{
  type: string;
  schemaVersion: number;
  data: unknown;
  metadata: EventMetadata;
  recordedAt: string;
}>;

/** A stored event. `version` counts from 1 in its stream, `position` counts in the whole log. */
export type StoredEvent = NewEvent &
  Readonly<{
    streamId: string;
    version: number;
    position: number;
  }>;

/** What to read of a stream: up to a version and up to an instant, both inclusive. */
export type ReadFilter = Readonly<{
  /** A stream of another category reads as empty. Set it if the id comes from a caller. */
  category?: string;
  version?: number;
  instant?: string;
  /** The stream of an order of another customer reads as empty. */
  customerId?: string | undefined;
}>;

/** Reads committed events. Events are appended through the group commit. */
export type EventStore = Readonly<{
  /** The events of one stream in the order of their versions; empty if there is no such stream. */
  readStream(streamId: string, filter?: ReadFilter): Promise<StoredEvent[]>;
}>;

/**
 * Everything that one command writes, in one transaction: all of it or nothing. Each member names the
 * tables that it is written to. Rows have the names of their columns.
 */
export type Unit = Readonly<{
  /** `streams` and `events`. New types of events are added to `event_schemas` before. */
  appends: readonly StreamAppend[];
  /** `idempotency_keys`. */
  response?: KeyedResponse;
  /**
   * `orders_summary`: inserted, or written over the row with the same `order_id`. The unit appends to the
   * stream of that order.
   */
  summaries?: readonly OrdersSummaryRow[];
  /** `outbox_events`, from where the relay sends them to Kafka. */
  messages?: readonly OutboxMessageRow[];
  /** `saga_work`, the queue of the saga runner. */
  sagas?: readonly SagaWorkRow[];
  /** `reservations`, and the quantities in `stock`. */
  reservations?: readonly ReservationRow[];
  /** `order_personal_data`. The unit appends to the stream of that order. */
  personalData?: readonly PersonalDataRow[];
  /** `external_references`. If it is taken, the verdict is `reference`. */
  reference?: ReferenceRow;
}>;

/**
 * Events to append to one stream, which must be at `expectedVersion` (0: it must not exist). There is no way
 * to append at any version, because then two writers could both win. Without events, the version is only
 * checked.
 */
export type StreamAppend = Readonly<{
  streamId: string;
  category: string;
  expectedVersion: number;
  events: readonly NewEvent[];
}>;

/** The response to a command, stored under the caller's idempotency key. */
export type KeyedResponse = Readonly<{ ref: KeyRef; commandId: string; stored: StoredResponse }>;

/** An idempotency key. It belongs to its principal: two principals may use the same text. */
export type KeyRef = Readonly<{ principal: string; key: string }>;

/** The response to a command. Its body is JSON text. */
export type CommandResponse = Readonly<{
  status: number;
  etag: string | null;
  location: string | null;
  body: string;
}>;

/** A response as it is stored. */
export type StoredResponse = FullResponse | ResponseReference;

/** The response to a command that wrote events, as it is stored. */
export type FullResponse = CommandResponse & Readonly<{ requestHash: Uint8Array }>;

/**
 * The response to a command that wrote no event: the version of the stream that it showed. A replay folds the
 * stream up to this version, so the stored key never takes more space than its request.
 */
export type ResponseReference = Readonly<{ requestHash: Uint8Array; version: number }>;

/** A row of the read model of orders, by column. Instants are ISO 8601 in UTC. */
export type OrdersSummaryRow = Readonly<{ order_id: string }> &
  Readonly<Record<string, string | number | null>>;

/** A message to Kafka, in the form of CloudEvents 1.0. */
export type OutboxMessageRow = Readonly<{
  aggregate_type: string;
  aggregate_id: string;
  event_type: string;
  stream_version: number;
  topic: string;
  message_key: string;
  /** murmur2 of `message_key`. */
  key_hash: number;
  ce_id: string;
  ce_type: string;
  ce_source: string;
  ce_time: string;
  ce_subject: string;
  ce_sequence: string;
  traceparent: string | null;
  payload: string;
}>;

/**
 * What a unit does to a saga in `saga_work`. The database's clock decides what is due, so times are sent as
 * milliseconds from now. Only the deadline is an instant, because it follows from the saga's events.
 */
export type SagaWorkRow =
  | Readonly<{
      op: 'begin';
      saga_id: string;
      subject_id: string;
      definition: string;
      definition_version: number;
      owner: string | null;
      lease_ms: number | null;
      due_in_ms: number;
    }>
  | Readonly<{
      op: 'advance';
      saga_id: string;
      /** The fencing token. If the row is at another epoch, the verdict is `fenced`. */
      epoch: number;
      state: 'running' | 'compensating' | 'completed' | 'compensated' | 'stuck';
      step: string | null;
      attempt: number;
      reason: string | null;
      /** The owner keeps the saga, and its lease starts again. Null gives the saga back and ends the epoch. */
      owner: string | null;
      lease_ms: number | null;
      /** Null if there is nothing left to do. */
      due_in_ms: number | null;
      deadline_at: string | null;
    }>
  /** Makes the live saga of an order due at once, whoever owns it, because the order is to be cancelled. */
  | Readonly<{ op: 'wake'; subject_id: string }>;

/**
 * `reserve` takes goods from the stock. If one reservation of the unit cannot be had, the verdict is `short`.
 * `release` returns everything that a reservation holds to the stock, `consume` removes it: it was shipped.
 */
export type ReservationRow =
  | Readonly<{ op: 'reserve'; reservation_id: string; sku: string; quantity: number }>
  | Readonly<{ op: 'release' | 'consume'; reservation_id: string }>
  /** Adds returned goods to what is on hand, also of a sku that has no stock yet. */
  | Readonly<{ op: 'restock'; sku: string; quantity: number }>;

/**
 * What a unit does to the personal data of an order: `put` adds it to a new order, `address` sets another address,
 * `erase` removes it. The objects are stored as they are.
 */
export type PersonalDataRow =
  | Readonly<{
      op: 'put';
      order_id: string;
      customer_id: string;
      shipping_address: PersonalFields | null;
      contact: PersonalFields | null;
      payment_method: string | null;
    }>
  | Readonly<{
      op: 'address';
      order_id: string;
      customer_id: string;
      shipping_address: PersonalFields;
    }>
  | Readonly<{ op: 'erase'; order_id: string }>;

type PersonalFields = Readonly<Record<string, string | undefined>>;

/** The reference that a principal gives an order. It belongs to one order of this principal. */
export type ReferenceRow = Readonly<{ principal: string; reference: string; order_id: string }>;

/**
 * What became of a unit. Only `ok` has written anything.
 * conflict: a stream was not at its expected version.
 * key: the idempotency key is taken.
 * fenced: a saga is at another epoch.
 * short: there is not enough stock for a reservation.
 * reference: the external reference belongs to another order.
 * locked: another transaction has locked a row that the unit needs, so the unit was not judged.
 */
export type Verdict = 'ok' | 'conflict' | 'key' | 'fenced' | 'short' | 'reference' | 'locked';

/** What a batch of commands decides on. */
export type Loaded = Readonly<{
  /** Also empty if the stream is of another category than the one given. */
  stream(streamId: string, category?: string): readonly StoredEvent[];
  response(ref: KeyRef): StoredResponse | null;
}>;

/** Loads and writes batches. */
export type UnitStore = Readonly<{
  load(streamIds: readonly string[], keys: readonly KeyRef[]): Promise<Loaded>;
  /** @returns the verdicts, in the order of the units @throws WriteFailed */
  write(units: readonly Unit[]): Promise<Verdict[]>;
}>;

/** A batch that failed. `refused` and `contended` blame one of its units. */
export class WriteFailed extends Error {
  readonly failure: WriteFailure;

  constructor(failure: WriteFailure, cause: unknown) {
    super(`write ${failure}`, { cause });
    this.name = 'WriteFailed';
    this.failure = failure;
  }

  /** Any other error says nothing about what the database did. */
  static from(error: unknown): WriteFailed {
    return error instanceof WriteFailed ? error : new WriteFailed('unknown', error);
  }
}

/** The queue is full, or the stream's share of it is, or the command waited too long. Nothing was written. */
export class CommandOverloaded extends Error {
  constructor() {
    super('too many commands are waiting to be committed');
    this.name = 'CommandOverloaded';
  }
}

/** The database did not accept the command. Nothing was written. */
export class StoreUnavailable extends Error {
  constructor(cause: unknown) {
    super('the database did not accept the command', { cause });
    this.name = 'StoreUnavailable';
  }
}

/** The clock of this process is wrong, so it records no events. Nothing was written. */
export class ClockOff extends StoreUnavailable {
  constructor() {
    super('the clock of this process differs too much from the clock of the database');
    this.name = 'ClockOff';
  }
}

/** Another transaction kept a row locked that the command needs. Nothing was written. */
export class RowsLocked extends StoreUnavailable {
  constructor() {
    super('another transaction has locked a row that the command needs');
    this.name = 'RowsLocked';
  }
}

/** The database did not respond: the unit may have been written, or may still be. */
export class CommandUncertain extends Error {
  constructor(cause: unknown) {
    super('the outcome of the command is unknown', { cause });
    this.name = 'CommandUncertain';
  }
}

/** Others changed the stream during every attempt. Nothing was written. */
export class VersionConflict extends Error {
  constructor() {
    super('others changed the stream during every attempt');
    this.name = 'VersionConflict';
  }
}

/** When to record an event: now, but never before the events that it follows. */
export function recordedAt(now: Date, ...follows: readonly (string | null | undefined)[]): string {
  return follows.reduce<string>(
    (latest, at) => (typeof at === 'string' && at > latest ? at : latest),
    now.toISOString(),
  );
}
