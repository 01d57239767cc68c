import { promisify } from 'node:util';
import { constants, gzip } from 'node:zlib';

import { negotiate } from '@fastify/accept-negotiator';
import type { FastifyReply, FastifyRequest } from 'fastify';

const GZIP = 'gzip';
/** Below this a packet or two are not worth the time. */
const BYTES_MIN = 1_024;
/** Reads, and not problems, which may repeat what their caller sent. */
const COMPRESSED = /^application\/(ucp\+)?json\b/;
const compress = promisify(gzip);
/** A buffer is a document that is sent again and again, so its compressed form is kept. */
const compressedDocuments = new WeakMap<Buffer, Promise<Buffer>>();

/**
 * Whether the body of a read is worth compressing for callers that accept it: a document, or large JSON. The metrics
 * are not, because whoever asks for them without end would keep the thread pool busy.
 */
export function isCompressible(reply: FastifyReply, payload: string | Buffer): boolean {
  if (Buffer.byteLength(payload) < BYTES_MIN) return false;
  return typeof payload !== 'string' || COMPRESSED.test(String(reply.getHeader('content-type')));
}

/** Whether the caller accepts gzip. */
export function acceptsGzip({ headers }: FastifyRequest): boolean {
  return negotiate(headers['accept-encoding']?.toLowerCase() ?? '', [GZIP]) === GZIP;
}

/**
 * The ETag of the compressed form. A strong tag stands for the exact bytes, so each form has one of its own; as
 * If-Match both name the same version.
 */
export function gzipETag(etag: string): string {
  return etag.startsWith('W/') ? etag : etag.replace(/"$/, '-gzip"');
}

/** Compresses in the thread pool. The best speed loses 8 % of size and takes half the time. */
export function compressed(payload: string | Buffer): Promise<Buffer> {
  if (typeof payload === 'string') return compress(payload, { level: constants.Z_BEST_SPEED });
  const known = compressedDocuments.get(payload);
  if (known !== undefined) return known;
  const made = compress(payload, { level: constants.Z_BEST_COMPRESSION });
  compressedDocuments.set(payload, made);
  return made;
}
