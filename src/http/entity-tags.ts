import { hash } from 'node:crypto';

import { z } from 'zod';

/** One member of a list, which may be empty (RFC 9110, 5.6.1), with the comma behind it. */
const LIST_MEMBER = /[ \t]*(?:(W\/)?("[\x21\x23-\x7e\x80-\xff]*")[ \t]*)?(?:,|$)/y;
const TAG_PATTERN = String.raw`(W/)?"[!#-~\u0080-\u00ff]*"`;
/** The same for JSON Schema: `*`, or a list that names a tag. HTTP takes the white space around it away. */
const LIST_PATTERN = String.raw`^(\*|(,[ \t]*)*${TAG_PATTERN}([ \t]*,([ \t]*${TAG_PATTERN})?)*)$`;

/** What If-Match or If-None-Match said. Tags keep their quotes: `"v7"`. */
export type EntityTags = Readonly<{
  /** The header as it came. */
  text: string;
  /** It was `*`: any version will do. */
  any: boolean;
  strong: readonly string[];
  weak: readonly string[];
}>;

/**
 * The ETag of an order at a version. Where the answer shows a `state` that the version alone does not
 * tell, the tag names it too: two answers that differ never share one.
 */
export function versionETag(version: number, state?: string): string {
  return state === undefined ? `"v${version}"` : `"v${version}-${state}"`;
}

/** The ETag of an answer that has none of its own. Weak, so that If-Match never takes it for a version. */
export function bodyETag(body: string | Buffer): string {
  // Nobody gains by a collision with his own answer: the fastest hash will do.
  return `W/"${hash('sha1', body, 'base64url')}"`;
}

/**
 * Whether If-Match lets the request through: it asks for the version, whatever state was shown with it.
 * Strong comparison; a weak tag never matches.
 */
export function ifMatchHolds(ifMatch: EntityTags, version: number): boolean {
  const { any, strong } = ifMatch;
  return any || strong.some((tag) => tag.replace(/-\w+"$/, '"') === versionETag(version));
}

/** Whether If-None-Match says that the caller has this already, so 304: weak comparison. */
export function ifNoneMatchHits(ifNoneMatch: EntityTags, etag: string): boolean {
  const { any, strong, weak } = ifNoneMatch;
  const opaque = etag.replace(/^W\//, '');
  return any || strong.includes(opaque) || weak.includes(opaque);
}

/** Whether If-Match names weak tags only: it can never hold, whatever they name. */
export function isWeakOnly({ any, strong }: EntityTags): boolean {
  return !any && strong.length === 0;
}

/** The header in the one form that all its spellings share. */
export function canonicalEntityTags({ any, strong, weak }: EntityTags): string {
  if (any) return '*';
  return [...new Set([...strong, ...weak.map((tag) => `W/${tag}`)])].toSorted().join(', ');
}

/** The schema of an If-Match or If-None-Match header: `*`, or a list of quoted tags. */
export const entityTags = z
  .string()
  .meta({ pattern: LIST_PATTERN, examples: ['"v1"'] })
  .transform((text, context): EntityTags => {
    const parsed = parseEntityTags(text);
    if (parsed !== undefined) return parsed;
    context.addIssue({
      code: 'custom',
      message: 'must be * or a list of quoted tags such as "v1"',
    });
    return z.NEVER;
  });

function parseEntityTags(text: string): EntityTags | undefined {
  if (text === '*') return { text, any: true, strong: [], weak: [] };
  const strong: string[] = [];
  const weak: string[] = [];
  LIST_MEMBER.lastIndex = 0;
  while (LIST_MEMBER.lastIndex < text.length) {
    const match = LIST_MEMBER.exec(text);
    if (match === null) return undefined;
    if (match[2] !== undefined) (match[1] === undefined ? strong : weak).push(match[2]);
  }
  if (strong.length + weak.length === 0) return undefined;
  return { text, any: false, strong, weak };
}
