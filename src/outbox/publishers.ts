import type { Publisher } from './outbox.ts';
import type { KafkaPublisherOptions } from './publisher.ts';

/** The libraries that can publish. */
export const kafkaClients = ['kafkajs', 'platformatic'] as const;

/** The value of `KAFKA_CLIENT`. */
export type KafkaClientName = (typeof kafkaClients)[number];

type CreatePublisher = (options: KafkaPublisherOptions) => Publisher;

const load: Readonly<Record<KafkaClientName, () => Promise<CreatePublisher>>> = {
  kafkajs: async () => (await import('./kafka-publisher.ts')).createKafkaPublisher,
  platformatic: async () =>
    (await import('./platformatic-publisher.ts')).createPlatformaticPublisher,
};

/** Loads one library, and not the others. */
export function loadPublisher(name: KafkaClientName): Promise<CreatePublisher> {
  return load[name]();
}
