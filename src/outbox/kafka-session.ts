import type { Producer } from 'kafkajs';
import { withDeadline } from './deadline.ts';
import type { KafkaClient } from './kafka-client.ts';
import type { PublishOutcome, PublishRequest } from './outbox.ts';

/** How long a broker may wait for its replicas. Shorter than a request may take, so that it answers. */
const REPLICAS_TIMEOUT_MS = 2_500;
const RETRY = { retries: 3, initialRetryTime: 100, maxRetryTime: 1_000 };

/** What Kafka answers when a record of the batch can never be stored. Any other failure may pass. */
const REFUSALS: ReadonlySet<string> = new Set([
  'MESSAGE_TOO_LARGE',
  'RECORD_LIST_TOO_LARGE',
  'INVALID_RECORD',
]);

/** One idempotent producer and the batches under way on it. */
export type KafkaSession = Readonly<{
  publish(request: PublishRequest): Promise<PublishOutcome>;
  /** True once a batch was not plainly acknowledged: nothing new may be sent here. */
  isSpent(): boolean;
  cut(): void;
}>;

/**
 * Opens a producer; it connects with the first batch. It is spent by the first outcome that is not a
 * plain yes: kafkajs then gives the batch's sequence numbers to the next one, which the broker would
 * take for a repeat, say yes to and drop.
 */
export function openKafkaSession({ kafka, cut }: KafkaClient): KafkaSession {
  const producer = kafka.producer({
    idempotent: true,
    allowAutoTopicCreation: false,
    retry: RETRY,
    createPartitioner:
      () =>
      ({ message }) =>
        message.partition ?? -1,
  });
  let connecting: Promise<void> | undefined;
  let underWay = 0;
  let isSpent = false;

  const publish = async (request: PublishRequest): Promise<PublishOutcome> => {
    underWay += 1;
    connecting ??= producer.connect();
    const { timeoutMs } = request;
    const outcome = await withDeadline<PublishOutcome>(
      sent(producer, connecting, request),
      timeoutMs,
      () => {
        cut();
        return { kind: 'unknown', reason: `no answer within ${timeoutMs} ms` };
      },
    );
    underWay -= 1;
    isSpent ||= outcome.kind !== 'acked';
    if (isSpent && underWay === 0) cut();
    return outcome;
  };

  return { publish, isSpent: () => isSpent, cut };
}

async function sent(
  producer: Producer,
  connecting: Promise<void>,
  { topic, partition, messages }: PublishRequest,
): Promise<PublishOutcome> {
  try {
    await connecting;
    const acks = await producer.send({
      topic,
      acks: -1,
      timeout: REPLICAS_TIMEOUT_MS,
      messages: messages.map((message) => ({ ...message, partition })),
    });
    // kafkajs resolves without having sent anything when it does not know the partition.
    const isAcked = acks.some(
      (ack) => ack.topicName === topic && ack.partition === partition && ack.errorCode === 0,
    );
    return isAcked ? { kind: 'acked' } : { kind: 'unknown', reason: 'not acknowledged' };
  } catch (error) {
    const reason = protocolError(error);
    if (reason !== undefined && REFUSALS.has(reason)) return { kind: 'refused', reason };
    return {
      kind: 'unknown',
      reason: reason ?? (error instanceof Error ? error.message : 'failed'),
    };
  }
}

/** The name of the broker's error, however deep kafkajs wrapped it. */
function protocolError(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ('type' in error && typeof error.type === 'string') return error.type;
  return protocolError(error.cause);
}
