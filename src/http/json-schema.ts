import { z } from 'zod';

type Override = NonNullable<NonNullable<Parameters<typeof z.toJSONSchema>[1]>['override']>;

/**
 * Completes the JSON Schema that zod makes. A default is shown even if a transform hides it. An object is closed
 * only if it is strict, because responses may gain members in a later release.
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
): Record<string, unknown> {
  const { $schema: _, ...json } = z.toJSONSchema(schema, {
    io: 'input',
    target,
    override: overrideSchema,
  });
  return json;
}

/** @throws if another schema has the same name: the OpenAPI document would mix them up */
export function refuseSecondOfName(schema: z.core.$ZodType): void {
  const id = z.globalRegistry.get(schema)?.id;
  if (id !== undefined && z.globalRegistry._idmap.get(id) !== schema) {
    throw new Error(`two different schemas are named ${id}`);
  }
}
