import type { z } from 'zod';

import { toJsonSchema } from './json-schema.ts';

/** Version of the messages as a whole, not of the program. */
const MESSAGES_VERSION = '1.0.0';
const KAFKA_BINDING_VERSION = '0.5.0';
const NEW_TOPIC_NOTE =
  'Its partitions and replicas are told here as the service makes it where it is missing.';

/** One sort of message that goes to a channel, for the AsyncAPI document. */
export type MessageSpec = Readonly<{
  /** By which consumers tell it from others. */
  name: string;
  title: string;
  summary: string;
  headers: z.ZodType;
  payload: z.ZodType;
  example: Readonly<{ headers: Readonly<Record<string, string>>; payload: unknown }>;
}>;

/** What goes to one topic of Kafka. */
export type ChannelSpec = Readonly<{
  /** Its name in the document, whatever the topic is called. */
  name: string;
  title: string;
  description: string;
  topic: string;
  /** How the topic is made where it is missing. */
  newTopic: Readonly<{ partitions: number; replication: number }>;
  key: z.ZodType;
  messages: readonly MessageSpec[];
}>;

/** Describes what the service publishes as AsyncAPI 3.0, from the schemas of what it sends. */
export function buildAsyncApi(channel: ChannelSpec) {
  const { name, title, description, topic, newTopic, messages } = channel;
  const at = `#/channels/${name}`;
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'Order service: what it publishes',
      version: MESSAGES_VERSION,
      description: 'CloudEvents 1.0 in binary mode, as JSON; instants are ISO 8601 in UTC.',
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

/** The JSON Schema of a part of a message. It allows members that it does not name: later releases add some. */
export function messageJsonSchema(schema: z.ZodType) {
  return toJsonSchema(schema, 'input', 'draft-07');
}
