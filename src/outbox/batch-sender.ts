import type { Logger } from 'pino';
import { messageFrom } from './outbox.ts';
import type { OutboxRow, Publisher } from './outbox.ts';
import type { OutboxStore } from './outbox-store.ts';

/** What the relay counts. */
export type RelayMetrics = Readonly<{
  published(messages: number): void;
  publishFailed(kind: 'refused' | 'unknown'): void;
  leaseChanged(isHeld: boolean): void;
}>;

/** What became of a batch. What is neither acknowledged nor parked is to be sent again. */
export type SendResult = Readonly<{ acked: readonly OutboxRow[]; failure?: string }>;

export type BatchSenderOptions = Readonly<{
  topic: string;
  lease: string;
  epoch: number;
  sendTimeoutMs: number;
  store: Pick<OutboxStore, 'park'>;
  publisher: Pick<Publisher, 'publish'>;
  /** Whether a batch that starts now is over, one way or the other, before the lease is. */
  maySend: () => boolean;
  metrics: RelayMetrics;
  log: Pick<Logger, 'error'>;
}>;

/** Sends one partition's batch, rows in id order; never throws. */
export type BatchSender = (partition: number, rows: readonly OutboxRow[]) => Promise<SendResult>;

/**
 * When Kafka refuses a batch, halves it until the refused message stands alone, and parks its key. The
 * first half is settled before the second goes out, and no later message of a parked key goes at all.
 */
export function createBatchSender(options: BatchSenderOptions): BatchSender {
  const { topic, lease, epoch, sendTimeoutMs, store, publisher, maySend, metrics, log } = options;

  const park = async (row: OutboxRow, reason: string, parked: Set<string>): Promise<SendResult> => {
    const { id: outboxId, ce_id: messageId } = row;
    const isParked = await store.park({ outboxId, messageId, reason, lease, epoch });
    if (!isParked) return { acked: [], failure: `${reason}, and it could not be parked` };
    parked.add(row.message_key);
    log.error({ key: row.message_key, outboxId: row.id, reason }, 'message refused, key parked');
    return { acked: [] };
  };

  const sendHalves = async (
    partition: number,
    rows: readonly OutboxRow[],
    parked: Set<string>,
  ): Promise<SendResult> => {
    const middle = Math.ceil(rows.length / 2);
    const first = await send(partition, rows.slice(0, middle), parked);
    if (first.failure !== undefined) return first;
    const rest = rows.slice(middle).filter(({ message_key }) => !parked.has(message_key));
    const second = await send(partition, rest, parked);
    return { ...second, acked: [...first.acked, ...second.acked] };
  };

  const send = async (
    partition: number,
    rows: readonly OutboxRow[],
    parked: Set<string>,
  ): Promise<SendResult> => {
    const [first] = rows;
    if (first === undefined) return { acked: [] };
    if (!maySend()) return { acked: [], failure: 'the lease is about to end' };
    const messages = rows.map(messageFrom);
    const outcome = await publisher.publish({
      topic,
      partition,
      messages,
      timeoutMs: sendTimeoutMs,
    });
    if (outcome.kind === 'acked') {
      metrics.published(rows.length);
      return { acked: rows };
    }
    metrics.publishFailed(outcome.kind);
    if (outcome.kind === 'unknown') return { acked: [], failure: outcome.reason };
    return rows.length === 1
      ? park(first, outcome.reason, parked)
      : sendHalves(partition, rows, parked);
  };

  return async (partition, rows) => {
    try {
      return await send(partition, rows, new Set());
    } catch (error) {
      return { acked: [], failure: error instanceof Error ? error.message : String(error) };
    }
  };
}
