import { z } from 'zod';

export type JsonSchema = Record<string, unknown>;

/**
 * The JSON Schema of what goes in or comes out; defaults are shown even where a transform hides them.
 * What comes out may gain members in a later release, so that it is not closed unless it is strict.
 */
export function toJsonSchema(
  schema: z.ZodType,
  io: 'input' | 'output',
  target: 'draft-2020-12' | 'draft-07' = 'draft-2020-12',
): JsonSchema {
  const { $schema: _, ...json } = z.toJSONSchema(schema, {
    io,
    target,
    override: ({ zodSchema, jsonSchema }) => {
      const { def } = zodSchema._zod;
      if (def.type === 'default') jsonSchema.default = def.defaultValue;
      if (zodSchema instanceof z.ZodObject && zodSchema.def.catchall === undefined) {
        delete jsonSchema.additionalProperties;
      }
    },
  });
  return json;
}

/** Whether no object in the schema, at any depth, takes members that it does not declare. */
export function isStrict(schema: unknown): boolean {
  if (typeof schema !== 'object' || schema === null) return true;
  if (
    'properties' in schema &&
    !('additionalProperties' in schema && schema.additionalProperties === false)
  ) {
    return false;
  }
  return Object.values(schema).every(isStrict);
}

/** Moves the schemas that have a name to `components`, and points there instead. */
export function hoist(schema: unknown, components: Record<string, unknown>): unknown {
  if (Array.isArray(schema)) return schema.map((item) => hoist(item, components));
  if (typeof schema !== 'object' || schema === null) return schema;
  const members = Object.entries(schema).flatMap(([name, value]) => {
    if (name === '$ref')
      return [[name, String(value).replace('#/$defs/', '#/components/schemas/')]];
    if (name !== '$defs') return [[name, hoist(value, components)]];
    for (const [id, named] of Object.entries(value))
      addComponent(components, id, hoist(named, components));
    return [];
  });
  return Object.fromEntries(members);
}

function addComponent(components: Record<string, unknown>, id: string, schema: unknown): void {
  const known = components[id];
  if (known !== undefined && JSON.stringify(known) !== JSON.stringify(schema)) {
    throw new Error(`two different schemas are named ${id}`);
  }
  components[id] = schema;
}

/** The members that the JSON Schema of an object declares. */
export function readProperties(schema: JsonSchema) {
  const { properties, required } = objectSchema.parse(schema);
  return Object.entries(properties).map(([name, property]) => ({
    name,
    property,
    required: required.includes(name),
  }));
}

const objectSchema = z.object({
  properties: z.record(z.string(), z.unknown()),
  required: z.array(z.string()).default([]),
});
