import type { IncomingHttpHeaders } from 'node:http';

import { z } from 'zod';

import { entityTags } from './entity-tags.ts';
import { canonicalHeader } from './field-errors.ts';
import { idempotencyKey } from './idempotency.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';

/**
 * The headers by which a caller guards a command. A route that declares one honours it; sent to a route
 * that does not, it is refused, never ignored.
 */
export const commandHeaders = {
  'idempotency-key': idempotencyKey.optional(),
  'if-match': entityTags
    .optional()
    .describe('ETag that you read. The command is refused if the resource has changed since.'),
  'if-none-match': entityTags
    .optional()
    .describe('Send * to refuse the command if the resource exists already.'),
} as const;

/** The headers of a command that honours its caller's key. */
export const keyedHeaders = z.object({ 'idempotency-key': commandHeaders['idempotency-key'] });

/** The headers of a command on something that has an ETag. */
export const guardedHeaders = keyedHeaders.extend({ 'if-match': commandHeaders['if-match'] });

/** The headers of a command that is taken only with an If-Match. */
export const matchingHeaders = keyedHeaders.extend({
  'if-match': entityTags.describe(
    'ETag that you read. The command is refused if the resource has changed since.',
  ),
});

/** What the guarding headers say; undefined where one was not sent or is not valid. */
export function guardsOf(headers: IncomingHttpHeaders) {
  return {
    key: commandHeaders['idempotency-key'].safeParse(headers['idempotency-key']).data,
    ifMatch: commandHeaders['if-match'].safeParse(headers['if-match']).data,
    ifNoneMatch: commandHeaders['if-none-match'].safeParse(headers['if-none-match']).data,
  };
}

/** Whether a route with these header schemas takes no command without If-Match. */
export function needsMatch(headers: z.ZodType | undefined): boolean {
  const schema = headers instanceof z.ZodObject ? headers.shape['if-match'] : undefined;
  return schema !== undefined && !(schema instanceof z.ZodOptional);
}

/** @throws Problem `precondition_required` */
export function requireIfMatch({ 'if-match': ifMatch }: IncomingHttpHeaders): void {
  if (ifMatch !== undefined) return;
  const { preconditionRequired } = problemKinds;
  throw new Problem(preconditionRequired, { detail: preconditionRequired.advice });
}

/** The names of the guarding headers that a route with these header schemas does not honour. */
export function unhonouredHeaders(headers: z.ZodType | undefined): string[] {
  const declared = headers instanceof z.ZodObject ? headers.shape : {};
  return Object.keys(commandHeaders).filter((name) => !(name in declared));
}

/** @throws Problem `header_not_honoured` */
export function refuseUnhonoured(
  headers: IncomingHttpHeaders,
  unhonoured: readonly string[],
): void {
  const sent = unhonoured.filter((name) => headers[name] !== undefined).map(canonicalHeader);
  if (sent.length === 0) return;
  throw new Problem(problemKinds.headerNotHonoured, {
    detail: `This request does not honour ${sent.join(' and ')}. Nothing was done. Leave it out.`,
    errors: sent.map((name) => ({ pointer: `header/${name}`, message: 'is not honoured here' })),
  });
}

/**
 * Refuses what a page of another origin can make a browser send without asking: a command without a
 * JSON body. A JSON body is asked for first (CORS preflight), and this service grants nothing.
 * Who is not a browser sends neither Sec-Fetch-Site nor Origin.
 * @throws Problem `cross_origin`
 */
export function refuseCrossOrigin(headers: IncomingHttpHeaders): void {
  if (isJson(headers)) return;
  const { 'sec-fetch-site': site, origin, host } = headers;
  if (site === 'same-origin' || site === 'none') return;
  if (site === undefined && (origin === undefined || hostOf(origin) === host)) return;
  throw new Problem(problemKinds.crossOrigin, { detail: problemKinds.crossOrigin.advice });
}

/** Whether the body is said to be JSON. */
export function isJson({ 'content-type': contentType = '' }: IncomingHttpHeaders): boolean {
  return /^application\/json\s*(;|$)/i.test(contentType);
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}
