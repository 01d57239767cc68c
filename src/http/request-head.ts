import { randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { isIP } from 'node:net';

import type { FastifyRequest } from 'fastify';
import { z } from 'zod';

import { entityTags } from './entity-tags.ts';
import { canonicalHeader, pointerTo, summarise } from './field-errors.ts';
import { idempotencyKey } from './idempotency.ts';
import { Problem, problemKind } from './problem.ts';
import type { FieldError } from './problem.ts';

/** Headers with one meaning. Node would silently join or drop a second one. */
const SINGLE = new Set([
  'authorization',
  'content-encoding',
  'content-type',
  'host',
  'idempotency-key',
]);
const LENGTHS = new Set([...SINGLE].map((name) => name.length));
/** RFC 3986: a registered name, an IPv4 address, or an IP literal in brackets; then perhaps a port. */
const HOST =
  /^(?:\[[\da-fA-F:.]+\]|\[v[\da-fA-F]+\.[\w.~!$&'()*+,;=:-]+\]|(?:[\w.~!$&'()*+,;=-]|%[\da-fA-F]{2})*)(?::\d*)?$/;
const LOCALHOST = /(?:^|\.)localhost\.?$/i;
const CONTINUE = /^100-continue$/i;
/** An id that is too short identifies nothing; one with other characters could be an address or break a log. */
const REQUEST_ID = /^[A-Za-z0-9._-]{8,128}$/;
const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/**
 * Whether no page of another site can have this host: an address, a name without a dot, or one of `localhost`. A
 * site can let its own name lead to this host, so that its pages call the service as if it were theirs.
 */
function isLocalHost(host: string): boolean {
  const name = host.replace(/:\d*$/, '');
  return !name.includes('.') || name.startsWith('[') || isIP(name) !== 0 || LOCALHOST.test(name);
}

/**
 * Checks what matters to every route: a header that was sent twice, is missing or is not valid, an
 * expectation, a transfer coding.
 * @param isLocalOnly the name of another host is refused, too
 * @returns the Problem to refuse the request with, if there is one
 */
export function findHeaderFault(
  request: IncomingMessage,
  isLocalOnly: boolean,
): Problem | undefined {
  const { expect, 'transfer-encoding': transferEncoding } = request.headers;
  if (expect !== undefined && !CONTINUE.test(expect)) return expectationFailed();
  if (transferEncoding !== undefined && transferEncoding.toLowerCase() !== 'chunked') {
    return transferCodingFault(transferEncoding);
  }
  const errors = fieldFaults(request);
  const { host = '' } = request.headers;
  if (errors.length === 0 && isLocalOnly && !isLocalHost(host)) {
    const message =
      'must be localhost or an address: this service has no authentication (AUTH=off)';
    errors.push({ pointer: 'header/Host', message });
  }
  return errors.length === 0
    ? undefined
    : new Problem(problemKind('invalid_request'), summarise(errors));
}

function fieldFaults({ headers, rawHeaders, httpVersion }: IncomingMessage): FieldError[] {
  const seen = new Set<string>();
  const faults: FieldError[] = [];
  // Names and values in turn.
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const raw = rawHeaders[index];
    if (raw === undefined || !LENGTHS.has(raw.length)) continue;
    const name = raw.toLowerCase();
    if (!SINGLE.has(name)) continue;
    if (seen.has(name)) {
      faults.push({
        pointer: `header/${canonicalHeader(name)}`,
        message: 'must be sent once only',
      });
    }
    seen.add(name);
  }
  const { host } = headers;
  if (host === undefined && httpVersion === '1.1') {
    faults.push({ pointer: 'header/Host', message: 'is required' });
  } else if (host !== undefined && !HOST.test(host)) {
    faults.push({
      pointer: 'header/Host',
      message: 'must be a host name or address, as host:port',
    });
  }
  return faults;
}

function expectationFailed(): Problem {
  return new Problem(problemKind('expectation_failed'), {
    detail: 'Only `Expect: 100-continue` is supported. Send the request without the header.',
  });
}

/** Node accepts any list that ends in `chunked`, but does not decode the other codings. */
function transferCodingFault(transferEncoding: string): Problem {
  const codings = transferEncoding.split(',').map((coding) => coding.trim().toLowerCase());
  if (codings.filter((coding) => coding === 'chunked').length !== 1) {
    return new Problem(problemKind('malformed_request'), {
      detail: 'Transfer-Encoding must name chunked once.',
    });
  }
  return new Problem(problemKind('not_implemented'), {
    detail: 'The only Transfer-Encoding that is supported is chunked.',
  });
}

/**
 * Finds query parameters whose percent encoding is not UTF-8. The parser would take them as literal text,
 * so that one value had two spellings.
 */
export function queryFaults(url: string): FieldError[] {
  const start = url.indexOf('?');
  if (start === -1 || !url.includes('%', start)) return [];
  return url
    .slice(start + 1)
    .split('&')
    .flatMap((parameter) => {
      const [name = '', ...value] = parameter.split('=');
      const isReadable = isEncoded(name);
      if (isReadable && isEncoded(value.join('='))) return [];
      const path = isReadable ? [decodeURIComponent(name)] : [];
      return [
        { pointer: pointerTo('query', path), message: 'has a percent encoding that is not UTF-8' },
      ];
    });
}

function isEncoded(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

/** The id of a request: that of its X-Request-Id header if it is a usable one, otherwise a new one. */
export function requestIdOf({ 'x-request-id': id }: IncomingHttpHeaders): string {
  return typeof id === 'string' && REQUEST_ID.test(id) ? id : randomUUID();
}

/** Returns a W3C trace context header of version 00. Any other value counts as not sent. */
export function parseTraceparent(header: unknown): string | undefined {
  return typeof header === 'string' && TRACEPARENT.test(header) ? header : undefined;
}

/** What the events that a request leads to say of it: who sent it, and under which id it is logged. */
export function requestMetadata({
  id,
  raw,
  principal,
}: Pick<FastifyRequest, 'id' | 'raw' | 'principal'>): Readonly<{
  correlationId: string;
  actor: string;
  traceparent?: string;
}> {
  const traceparent = parseTraceparent(raw.headers['traceparent']);
  return {
    correlationId: id,
    actor: principal.id,
    ...(traceparent !== undefined && { traceparent }),
  };
}

/**
 * The headers with which a caller guards a command. A route that declares one honours it. Sent to any
 * other route it is refused, never ignored.
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

/** The headers of a command that honours an Idempotency-Key. */
export const keyedHeaders = z.object({ 'idempotency-key': commandHeaders['idempotency-key'] });

/** The headers of a command on something that has an ETag. */
export const guardedHeaders = keyedHeaders.extend({ 'if-match': commandHeaders['if-match'] });

/** The headers of a command that requires If-Match. */
export const matchingHeaders = keyedHeaders.extend({
  'if-match': entityTags.describe(
    'ETag that you read. The command is refused if the resource has changed since.',
  ),
});

/** The guarding headers, parsed; undefined where one was not sent or is not valid. */
export function guardsOf(headers: IncomingHttpHeaders) {
  return {
    key: commandHeaders['idempotency-key'].safeParse(headers['idempotency-key']).data,
    ifMatch: commandHeaders['if-match'].safeParse(headers['if-match']).data,
    ifNoneMatch: commandHeaders['if-none-match'].safeParse(headers['if-none-match']).data,
  };
}

/** Whether a route with these header schemas requires If-Match. */
export function needsMatch(headers: z.ZodType | undefined): boolean {
  const schema = headers instanceof z.ZodObject ? headers.shape['if-match'] : undefined;
  return schema !== undefined && !(schema instanceof z.ZodOptional);
}

/** The names of the guarding headers that a route with these header schemas does not honour. */
export function unhonouredHeaders(headers: z.ZodType | undefined): string[] {
  const declared = headers instanceof z.ZodObject ? headers.shape : {};
  return Object.keys(commandHeaders).filter((name) => !(name in declared));
}

/**
 * Makes the function that checks the headers of a command, for a route with these header schemas. `isAllowedOrigin`
 * tells whether a request comes from a page of another origin that may send commands. The function
 * throws the Problem `cross_origin`, `header_not_honoured` or `precondition_required`.
 */
export function createGuardCheck(
  schema: z.ZodType | undefined,
  isAllowedOrigin: (headers: IncomingHttpHeaders) => boolean,
) {
  const matchRequired = needsMatch(schema);
  const unhonoured = unhonouredHeaders(schema);
  return (headers: IncomingHttpHeaders): void => {
    if (isCrossOrigin(headers) && !isAllowedOrigin(headers))
      throw new Problem(problemKind('cross_origin'));
    const sent = unhonoured.filter((name) => headers[name] !== undefined);
    if (sent.length > 0) throw notHonoured(sent.map(canonicalHeader));
    if (matchRequired && headers['if-match'] === undefined) {
      throw new Problem(problemKind('precondition_required'));
    }
  };
}

function notHonoured(names: readonly string[]): Problem {
  return new Problem(problemKind('header_not_honoured'), {
    detail: `This request does not honour ${names.join(' and ')}. Nothing was done. Leave it out.`,
    errors: names.map((name) => ({ pointer: `header/${name}`, message: 'is not honoured here' })),
  });
}

/**
 * Whether a browser sent a command without a JSON body for a page of another origin. With a JSON body the
 * browser asks first (CORS preflight), and gets permission for allowed origins only. A caller that is not a browser
 * sends neither Sec-Fetch-Site nor Origin.
 */
function isCrossOrigin(headers: IncomingHttpHeaders): boolean {
  if (isJson(headers)) return false;
  const { 'sec-fetch-site': site, origin, host } = headers;
  if (site !== undefined) return site !== 'same-origin' && site !== 'none';
  return origin !== undefined && hostOf(origin) !== host;
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}

/** Whether Content-Type says that the body is JSON. */
export function isJson({ 'content-type': contentType = '' }: IncomingHttpHeaders): boolean {
  return /^application\/json\s*(;|$)/i.test(contentType);
}
