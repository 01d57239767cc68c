import { z } from 'zod';

export type JsonSchema = Record<string, unknown>;

type Override = NonNullable<NonNullable<Parameters<typeof z.toJSONSchema>[1]>['override']>;

/**
 * What is said of a schema beside what zod says. Defaults are shown even where a transform hides them. What
 * comes out may gain members in a later release, so that it is not closed unless it is strict.
 */
export const overrideSchema: Override = ({ zodSchema, jsonSchema }) => {
  const { def } = zodSchema._zod;
  if (def.type === 'default') jsonSchema.default = def.defaultValue;
  if (def.type === 'undefined') jsonSchema.type = 'null';
  if (zodSchema instanceof z.ZodObject && zodSchema.def.catchall === undefined) {
    delete jsonSchema.additionalProperties;
  }
  refuseSecondOfName(zodSchema);
};

/** The JSON Schema of what a schema accepts. */
export function toJsonSchema(
  schema: z.ZodType,
  target: 'draft-2020-12' | 'draft-07' = 'draft-2020-12',
): JsonSchema {
  const { $schema: _, ...json } = z.toJSONSchema(schema, {
    io: 'input',
    target,
    override: overrideSchema,
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

/** A name stands for one schema: two would be mixed up in the OpenAPI document. */
export function refuseSecondOfName(schema: z.core.$ZodType): void {
  const id = z.globalRegistry.get(schema)?.id;
  if (id !== undefined && z.globalRegistry._idmap.get(id) !== schema) {
    throw new Error(`two different schemas are named ${id}`);
  }
}
