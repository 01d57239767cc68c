import type { z } from 'zod';

import { toJsonSchema } from './json-schema.ts';

/** Version of the messages as a whole, not of the program. */
const MESSAGES_VERSION = '1.0.0';
const KAFKA_BINDING_VERSION = '0.5.0';
const NEW_TOPIC_NOTE =
  'If the topic is missing, the service creates it with the partitions and replicas given here.';

/** One type of message on a channel. */
export type MessageSpec = Readonly<{
  /** The type by which consumers recognise it. */
  name: string;
  title: string;
  summary: string;
  headers: z.ZodType;
  payload: z.ZodType;
  example: Readonly<{ headers: Readonly<Record<string, string>>; payload: unknown }>;
}>;

/** A Kafka topic and the messages in it. */
export type ChannelSpec = Readonly<{
  /** Its name in the document; the topic may be called differently. */
  name: string;
  title: string;
  description: string;
  topic: string;
  /** How the topic is created if it is missing. */
  newTopic: Readonly<{ partitions: number; replication: number }>;
  key: z.ZodType;
  messages: readonly MessageSpec[];
}>;

/** Describes the messages of a channel as AsyncAPI 3.0, from the schemas of the messages. */
export function buildAsyncApi(channel: ChannelSpec) {
  const { name, title, description, topic, newTopic, messages } = channel;
  const at = `#/channels/${name}`;
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'Order service events',
      version: MESSAGES_VERSION,
      description: 'CloudEvents 1.0 in binary mode with JSON values. Times are ISO 8601 in UTC.',
      license: { name: 'MIT' },
    },
    defaultContentType: 'application/json',
    channels: {
      [name]: {
        address: topic,
        title,
        description: `${description} ${NEW_TOPIC_NOTE}`,
        messages: references(messages, '#/components/messages'),
        bindings: {
          kafka: {
            topic,
            partitions: newTopic.partitions,
            replicas: newTopic.replication,
            bindingVersion: KAFKA_BINDING_VERSION,
          },
        },
      },
    },
    operations: {
      publish: {
        action: 'send',
        title: `Publish to ${topic}`,
        channel: { $ref: at },
        messages: Object.values(references(messages, `${at}/messages`)),
      },
    },
    components: {
      messages: Object.fromEntries(
        messages.map((message) => [message.name, describeMessage(message, channel.key)]),
      ),
    },
  };
}

function references(messages: readonly MessageSpec[], to: string) {
  return Object.fromEntries(messages.map(({ name }) => [name, { $ref: `${to}/${name}` }]));
}

function describeMessage(
  { name, title, summary, headers, payload, example }: MessageSpec,
  key: z.ZodType,
) {
  return {
    name,
    title,
    summary,
    contentType: 'application/json',
    headers: messageJsonSchema(headers),
    payload: messageJsonSchema(payload),
    bindings: { kafka: { key: messageJsonSchema(key), bindingVersion: KAFKA_BINDING_VERSION } },
    examples: [{ name, ...example }],
  };
}

/** The JSON Schema of a part of a message. It allows more members, because later releases may add some. */
export function messageJsonSchema(schema: z.ZodType) {
  return toJsonSchema(schema, 'draft-07');
}
