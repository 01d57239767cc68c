import { hash } from 'node:crypto';

import { z } from 'zod';

import { Problem, problemKind } from './problem.ts';
import type { ProblemDetails } from './problem.ts';

/** One member of a list, which may be empty (RFC 9110, 5.6.1), with the comma behind it. */
const LIST_MEMBER = /[ \t]*(?:(W\/)?("[\x21\x23-\x7e\x80-\xff]*")[ \t]*)?(?:,|$)/y;
const TAG_PATTERN = String.raw`(W/)?"[!#-~\u0080-\u00ff]*"`;
/** The same for JSON Schema: `*`, or a list of at least one tag. Node strips the white space around it. */
const LIST_PATTERN = String.raw`^(\*|(,[ \t]*)*${TAG_PATTERN}([ \t]*,([ \t]*${TAG_PATTERN})?)*)$`;

/** A parsed If-Match or If-None-Match header. Tags keep their quotes: `"v7"`. */
export type EntityTags = Readonly<{
  /** The header as it was sent. */
  text: string;
  /** The header is `*`, which any version matches. */
  any: boolean;
  strong: readonly string[];
  weak: readonly string[];
}>;

/**
 * The ETag of a resource at a version. If the response shows `states` that do not follow from the version, the tag
 * names them too, so that two different responses never share a tag.
 */
export function versionETag(version: number, ...states: readonly (string | undefined)[]): string {
  return `"${[`v${version}`, ...states.filter((state) => state !== undefined)].join('-')}"`;
}

/** The ETag of a response without a version. It is weak, so that If-Match never takes it for a version. */
export function bodyETag(body: string | Buffer): string {
  // A collision would harm only the caller that makes it, so the fastest hash will do.
  return `W/"${hash('sha1', body, 'base64url')}"`;
}

/**
 * Whether If-Match names this version, with whatever state was shown, in any form. The comparison is strong:
 * a weak tag never matches.
 */
export function ifMatchHolds(ifMatch: EntityTags, version: number): boolean {
  const { any, strong } = ifMatch;
  return any || strong.some((tag) => tag.replace(/(-\w+){1,4}"$/, '"') === versionETag(version));
}

/**
 * Checks If-Match, if it was sent, against the version.
 * @throws Problem `precondition_failed` or `if_match_weak`
 */
export function requireMatch(ifMatch: EntityTags | undefined, version: number): void {
  if (ifMatch !== undefined && !ifMatchHolds(ifMatch, version)) throw unmatched(ifMatch);
}

/** The Problem for a condition that does not hold. */
export function unmatched(ifMatch: EntityTags | undefined, details?: ProblemDetails): Problem {
  const isWeak = ifMatch !== undefined && isWeakOnly(ifMatch);
  return new Problem(
    isWeak ? problemKind('if_match_weak') : problemKind('precondition_failed'),
    details,
  );
}

/** Whether If-None-Match names this tag. The comparison is weak. */
export function ifNoneMatchHits(ifNoneMatch: EntityTags, etag: string): boolean {
  const { any, strong, weak } = ifNoneMatch;
  const opaque = etag.replace(/^W\//, '');
  return any || strong.includes(opaque) || weak.includes(opaque);
}

/** Whether If-Match names weak tags only, so that it can never hold. */
export function isWeakOnly({ any, strong }: EntityTags): boolean {
  return !any && strong.length === 0;
}

/** The header in one form, whatever its spelling. */
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
