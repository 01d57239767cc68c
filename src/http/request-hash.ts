import { hash } from 'node:crypto';

import { z } from 'zod';

import { canonicalJson } from './canonical-json.ts';
import { canonicalEntityTags } from './entity-tags.ts';
import type { EntityTags } from './entity-tags.ts';

/** A request as its route understood it: checked parts, however they were spelt. */
export type UnderstoodRequest = Readonly<{
  method: string;
  /** The path of the route, with its parameters in braces. */
  route: string;
  params: unknown;
  body: unknown;
  bodySchema: z.ZodType;
  ifMatch: EntityTags | undefined;
  ifNoneMatch: EntityTags | undefined;
}>;

/** The same request as it was spelt. */
export type SpeltRequest = Readonly<{
  path: string;
  body: unknown;
}>;

/**
 * What makes two requests the same request: SHA-256 of all that decides their effect. The first hash is
 * of what was understood, so that no spelling matters, and is the one to store. The second is of what
 * was spelt, as releases before 0.2 stored it: a key of theirs is recognised by it.
 */
export function hashRequest(
  understood: UnderstoodRequest,
  spelt: SpeltRequest,
): readonly [Buffer, Buffer] {
  const { method, ifMatch, ifNoneMatch, body, bodySchema } = understood;
  const conditions = [
    ifMatch === undefined ? '' : canonicalEntityTags(ifMatch),
    ...(ifNoneMatch === undefined ? [] : [`not ${canonicalEntityTags(ifNoneMatch)}`]),
  ].join(' ');
  return [
    digest(method, canonicalPath(understood), conditions, withoutDefaults(bodySchema, body)),
    digest(method, spelt.path, ifMatch?.text ?? '', spelt.body),
  ];
}

function digest(method: string, path: string, conditions: string, body: unknown): Buffer {
  const text = body === undefined ? '' : canonicalJson(body);
  return hash('sha256', `${method}\n${path}\n${conditions}\n${text}`, 'buffer');
}

function canonicalPath({ route, params }: UnderstoodRequest): string {
  const values = new Map(Object.entries(isObject(params) ? params : {}));
  return route.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(String(values.get(name))),
  );
}

/** A checked value without the members that say what leaving them out says too. */
function withoutDefaults(schema: z.core.$ZodType, value: unknown): unknown {
  if (schema instanceof z.ZodOptional) return withoutDefaults(schema.def.innerType, value);
  if (schema instanceof z.ZodArray && Array.isArray(value)) {
    const { element } = schema.def;
    return value.map((item) => withoutDefaults(element, item));
  }
  if (!(schema instanceof z.ZodObject) || !isObject(value)) return value;
  const members = Object.entries(value).flatMap(([name, of]) => {
    const member = schema.def.shape[name];
    if (member === undefined) return [[name, of]];
    if (!(member instanceof z.ZodDefault)) return [[name, withoutDefaults(member, of)]];
    const { defaultValue, innerType } = member.def;
    const isDefault = canonicalJson(of) === canonicalJson(defaultValue);
    return isDefault ? [] : [[name, withoutDefaults(innerType, of)]];
  });
  return Object.fromEntries(members);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
