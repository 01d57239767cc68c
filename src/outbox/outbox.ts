/** A row of `outbox_events`: a message that Kafka has not acknowledged yet. */
export type OutboxRow = Readonly<{
  id: number;
  message_key: string;
  key_hash: number;
  ce_specversion: string;
  ce_id: string;
  ce_type: string;
  ce_source: string;
  ce_time: string;
  ce_subject: string;
  ce_sequence: string;
  content_type: string;
  traceparent: string | null;
  payload: string;
}>;

/** A message as it goes to Kafka: a CloudEvent in binary mode. */
export type OutboxMessage = Readonly<{
  key: string;
  value: string;
  headers: Readonly<Record<string, string>>;
}>;

/** What a topic allows. */
export type TopicLimits = Readonly<{
  partitions: number;
  /** Largest batch that the brokers take, in bytes. */
  batchBytesMax: number;
}>;

/**
 * What became of a batch. `acked`: all of it is in the log. `refused`: none of it is, since a record in
 * it can never be. `unknown`: all of it may be in the log or none, now or even later.
 */
export type PublishOutcome =
  | Readonly<{ kind: 'acked' }>
  | Readonly<{ kind: 'refused'; reason: string }>
  | Readonly<{ kind: 'unknown'; reason: string }>;

/** One partition's batch: stored as a whole or not at all. */
export type PublishRequest = Readonly<{
  topic: string;
  partition: number;
  messages: readonly OutboxMessage[];
  /** After this long the attempt is cut off and its outcome is `unknown`. */
  timeoutMs: number;
}>;

/** The way to Kafka. Never throws from `publish`; one unsettled batch per partition is the caller's duty. */
export type Publisher = Readonly<{
  /**
   * Creates the topic if it is missing.
   * @throws when the brokers cannot be asked
   */
  openTopic(topic: string): Promise<TopicLimits>;
  publish(request: PublishRequest): Promise<PublishOutcome>;
  /** Ends all connections at once: nothing that was started sends another byte. */
  abort(): void;
  close(): Promise<void>;
}>;

/** Builds the message that a row stands for. */
export function messageFrom(row: Omit<OutboxRow, 'id' | 'key_hash'>): OutboxMessage {
  return {
    key: row.message_key,
    value: row.payload,
    headers: {
      ce_specversion: row.ce_specversion,
      ce_id: row.ce_id,
      ce_type: row.ce_type,
      ce_source: row.ce_source,
      ce_time: row.ce_time,
      ce_subject: row.ce_subject,
      ce_sequence: row.ce_sequence,
      'content-type': row.content_type,
      ...(row.traceparent !== null && { traceparent: row.traceparent }),
    },
  };
}
