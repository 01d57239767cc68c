import { Kafka, logLevel } from 'kafkajs';

/*
 * A consumer that handles each event of an order once, although Kafka may deliver it more than once: after a
 * crash of the relay, of the broker, or of this consumer. Start the service (npm start), then:
 * KAFKA_BROKERS=host:port npm run consumer
 */

/** An event of an order, as it is in the value of a message. /docs/events describes the other members. */
export type OrderEvent = Readonly<{
  type: string;
  orderId: string;
  version: number;
  data: Readonly<Record<string, unknown>>;
}>;

/**
 * Where the effects of events are kept, together with the highest version that each order has reached. A real one
 * is a database: `apply` then writes the effect and the version in one transaction. Otherwise a crash between the
 * two would lose an effect, or repeat it.
 */
export type Effects = Readonly<{
  /** The highest version of the order that has been applied; 0 if none has. */
  versionOf(orderId: string): Promise<number>;
  apply(event: OrderEvent): Promise<void>;
}>;

/** What became of a message. */
export type Handled = 'applied' | 'duplicate';

/** Applies an event, unless it or a later one of its order has been applied. */
export async function handle(event: OrderEvent, effects: Effects): Promise<Handled> {
  const reached = await effects.versionOf(event.orderId);
  // Messages of an order arrive in the order of their versions. What is not above was delivered again.
  if (event.version <= reached) return 'duplicate';
  await effects.apply(event);
  return 'applied';
}

export type ConsumerOptions = Readonly<{
  kafka: Kafka;
  topic: string;
  groupId: string;
  effects: Effects;
  onHandled?: (event: OrderEvent, handled: Handled) => void;
  /**
   * Called when nothing is consumed any more, because kafkajs gave up on an error. Start it again then. An error
   * that may pass, and one of `effects`, is no reason: kafkajs tries again by itself.
   */
  onStopped: (error: Error) => void;
}>;

/**
 * Consumes the topic from its beginning, or from where the group has stopped. An error of `effects` stops at the
 * message, which kafkajs delivers again. Returns the function that stops the consumer.
 */
export async function consume(options: ConsumerOptions): Promise<() => Promise<void>> {
  const { kafka, topic, groupId, effects, onHandled, onStopped } = options;
  const consumer = kafka.consumer({ groupId, maxWaitTimeInMs: 500 });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  consumer.on(consumer.events.CRASH, ({ payload: { error, restart } }) => {
    if (!restart) onStopped(error);
  });
  await consumer.run({
    // One message of a partition after the other, so one event of an order after the other.
    eachMessage: async ({ message: { headers, value } }) => {
      const event = toEvent(String(headers?.['ce_type']), String(value));
      onHandled?.(event, await handle(event, effects));
    },
  });
  return () => consumer.disconnect();
}

function toEvent(type: string, json: string): OrderEvent {
  const { orderId, version, ...data } = JSON.parse(json);
  if (typeof orderId !== 'string' || !Number.isSafeInteger(version)) {
    throw new Error(`not an event of an order: ${type}`);
  }
  return { type, orderId, version, data };
}

/** Keeps everything in memory: for a demonstration, or for what can be built anew from the whole topic. */
export function effectsInMemory(apply: (event: OrderEvent) => void): Effects {
  const versions = new Map<string, number>();
  return {
    versionOf: async (orderId) => versions.get(orderId) ?? 0,
    apply: async (event) => {
      apply(event);
      versions.set(event.orderId, event.version);
    },
  };
}

if (import.meta.main) {
  const { KAFKA_BROKERS = '127.0.0.1:9094', KAFKA_TOPIC: topic = 'order.events' } = process.env;
  const brokers = KAFKA_BROKERS.split(',');
  const stop = await consume({
    kafka: new Kafka({ clientId: 'order-consumer', brokers, logLevel: logLevel.ERROR }),
    topic,
    groupId: 'order-consumer-example',
    effects: effectsInMemory(({ orderId, version, type }) =>
      console.log(`${orderId} ${version} ${type}`),
    ),
    onStopped: (error) => {
      console.error(`The consumer has stopped: ${error.message}`);
      process.exit(1);
    },
  });
  process.once('SIGINT', () => void stop());
}
