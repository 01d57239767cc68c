import type { IncomingMessage } from 'node:http';

import { canonicalHeader, summarise } from './field-errors.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import type { FieldError } from './problem.ts';

/** Headers that mean one thing; Node would join or drop a second one in silence. */
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
const CONTINUE = /^100-continue$/i;

/**
 * What the head of a request says that no route has to look at: a header that was sent twice or must be
 * there, an expectation, a transfer coding.
 */
export function findHeaderFault(request: IncomingMessage): Problem | undefined {
  const { expect, 'transfer-encoding': transferEncoding } = request.headers;
  if (expect !== undefined && !CONTINUE.test(expect)) return expectationFailed();
  if (transferEncoding !== undefined && transferEncoding.toLowerCase() !== 'chunked') {
    return transferCodingFault(transferEncoding);
  }
  const errors = fieldFaults(request);
  return errors.length === 0
    ? undefined
    : new Problem(problemKinds.invalidRequest, summarise(errors));
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
  return new Problem(problemKinds.expectationFailed, {
    detail: 'Only `Expect: 100-continue` is understood here. Send the request without the header.',
  });
}

/** Node takes whatever ends in `chunked`; what the other codings did to the body, nobody would undo. */
function transferCodingFault(transferEncoding: string): Problem {
  const codings = transferEncoding.split(',').map((coding) => coding.trim().toLowerCase());
  if (codings.filter((coding) => coding === 'chunked').length !== 1) {
    return new Problem(problemKinds.malformedRequest, {
      detail: 'Transfer-Encoding must name chunked once.',
    });
  }
  return new Problem(problemKinds.notImplemented, {
    detail: 'The only Transfer-Encoding that is understood here is chunked.',
  });
}
