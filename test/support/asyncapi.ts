import { z } from 'zod';
import type { OutboxMessage } from '#src/outbox/outbox.ts';

const reference = z.strictObject({ $ref: z.string().startsWith('#/') });
const name = z.string().regex(/^[\w.-]+$/);
const objectSchema = z.looseObject({
  type: z.literal('object'),
  properties: z.record(z.string(), z.custom<z.core.JSONSchema.JSONSchema>()),
  required: z.array(z.string()).min(1),
});
const message = z.strictObject({
  name,
  title: z.string().min(1),
  summary: z.string().min(1),
  contentType: z.literal('application/json'),
  headers: objectSchema,
  payload: objectSchema,
  bindings: z.strictObject({
    kafka: z.strictObject({
      key: z.custom<z.core.JSONSchema.JSONSchema>(),
      bindingVersion: z.literal('0.5.0'),
    }),
  }),
  examples: z
    .array(
      z.strictObject({
        name: z.string(),
        headers: z.record(z.string(), z.string()),
        payload: z.record(z.string(), z.unknown()),
      }),
    )
    .length(1),
});

/** The parts of AsyncAPI 3.0 that the document uses. Any other part fails. */
export const asyncApi = z.strictObject({
  asyncapi: z.literal('3.0.0'),
  info: z.strictObject({
    title: z.string(),
    version: z.string(),
    description: z.string(),
    license: z.strictObject({ name: z.string() }),
  }),
  defaultContentType: z.literal('application/json'),
  channels: z.record(
    name,
    z.strictObject({
      address: z.string(),
      title: z.string(),
      description: z.string(),
      messages: z.record(name, reference),
      bindings: z.strictObject({
        kafka: z.strictObject({
          topic: z.string(),
          partitions: z.int().min(1),
          replicas: z.int().min(1),
          bindingVersion: z.literal('0.5.0'),
        }),
      }),
    }),
  ),
  operations: z.record(
    name,
    z.strictObject({
      action: z.literal('send'),
      title: z.string(),
      channel: reference,
      messages: z.array(reference),
    }),
  ),
  components: z.strictObject({ messages: z.record(name, message) }),
});

/** Returns a function that lists how a message violates the document. An undocumented member is a violation. */
export function validatorOf(document: z.infer<typeof asyncApi>) {
  const schemas = new Map(
    Object.values(document.components.messages).map((message) => [
      message.name,
      {
        key: z.fromJSONSchema(message.bindings.kafka.key),
        headers: closed(message.headers),
        payload: closed(message.payload),
      },
    ]),
  );
  return ({ key, headers, value }: OutboxMessage): string[] => {
    const known = schemas.get(headers['ce_type'] ?? '');
    if (!known) return [`no message ${headers['ce_type']}`];
    const results = [
      known.key.safeParse(key),
      known.headers.safeParse(headers),
      known.payload.safeParse(JSON.parse(value)),
    ];
    return results.flatMap(({ error }) => (error ? [z.prettifyError(error)] : []));
  };
}

function closed(schema: z.infer<typeof objectSchema>): z.ZodType {
  return z.fromJSONSchema({ ...schema, additionalProperties: false });
}
