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

/** An event as it is stored: `version` counts in its stream from 1, `position` in the whole log. */
export type StoredEvent = NewEvent &
  Readonly<{
    streamId: string;
    version: number;
    position: number;
  }>;

/**
 * Events to add to one stream, which must be at `expectedVersion` (0: must not exist). There is no way
 * to append at any version: two writers could then both win.
 */
export type StreamAppend = Readonly<{
  streamId: string;
  category: string;
  expectedVersion: number;
  events: readonly NewEvent[];
}>;

/**
 * What to read of a stream: up to a version, or up to an instant, both included; nothing where the stream
 * is of another category. Who reads by an id that a caller gave names the category.
 */
export type ReadFilter = Readonly<{ category?: string; version?: number; instant?: string }>;

/** Reads what is committed. Appending goes through the group commit. */
export type EventStore = Readonly<{
  /** The events of one stream by version; empty where there is no such stream. */
  readStream(streamId: string, filter?: ReadFilter): Promise<StoredEvent[]>;
}>;

/** An answer stored with the effect of its command, under the caller's idempotency key. */
export type KeptAnswer = Readonly<{
  requestHash: Uint8Array;
  status: number;
  etag: string | null;
  location: string | null;
  body: string;
}>;

/**
 * What a command without effect leaves under its key: the version of its stream that the answer showed.
 * The answer is folded again from the stream, so that a key never costs more than its request.
 */
export type AnswerReference = Readonly<{ requestHash: Uint8Array; version: number }>;

export type StoredAnswer = KeptAnswer | AnswerReference;

/** A caller's idempotency key; two principals never share one. */
export type KeyRef = Readonly<{ principal: string; key: string }>;

/**
 * What one command writes, all or nothing: appends to any number of streams, the answer under its key,
 * and whatever rows the owner of the SQL function puts into `rows`.
 */
export type Unit<Rows> = Readonly<{
  appends: readonly StreamAppend[];
  answer?: Readonly<{ ref: KeyRef; commandId: string; stored: StoredAnswer }>;
  rows: Rows;
}>;

/**
 * ok: written. conflict: a stream was not at its expected version. key: the idempotency key is taken.
 * locked: somebody else holds a row that the unit needs; nothing else is known of it. Other verdicts belong
 * to the owner of the SQL function. Only `ok` has written anything.
 */
export type Verdict = 'ok' | 'conflict' | 'key' | 'locked' | (string & {});

/** Everything that a batch of commands needs to know before it decides. */
export type Loaded = Readonly<{
  /** Empty, too, where the stream is of another category than the one named. */
  stream(streamId: string, category?: string): readonly StoredEvent[];
  answer(ref: KeyRef): StoredAnswer | null;
}>;

/** Loads and writes batches; each call is one round trip. */
export type UnitStore<Rows> = Readonly<{
  load(streamIds: readonly string[], keys: readonly KeyRef[]): Promise<Loaded>;
  /** The verdicts, in the order of the units. @throws WriteFailed */
  write(units: readonly Unit<Rows>[]): Promise<Verdict[]>;
}>;

/**
 * A batch that did not answer.
 * not_applied: surely nothing was written, and trying again later may help.
 * contended: surely nothing was written, because somebody else held a lock that one member needed.
 * refused: surely nothing was written, because of something in one member.
 * unknown: it may have been written.
 */
export type WriteFailure = 'not_applied' | 'contended' | 'refused' | 'unknown';

export class WriteFailed extends Error {
  readonly failure: WriteFailure;

  constructor(failure: WriteFailure, cause: unknown) {
    super(`write ${failure}`, { cause });
    this.name = 'WriteFailed';
    this.failure = failure;
  }
}
