import type { FastifyInstance, FastifyRequest } from 'fastify';

import { parseJsonBody } from './json-body.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';

const CHARSET = /;\s*charset\s*=\s*"?([^\s;"]*)/i;

/** Takes bodies as JSON in UTF-8 only: any other media type is answered with 415. */
export function acceptJsonOnly(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<Buffer>(
    'application/json',
    { parseAs: 'buffer' },
    (request, body, done) => {
      try {
        done(null, request.is404 ? undefined : readBody(request, body));
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)));
      }
    },
  );
}

function readBody({ headers }: FastifyRequest, body: Buffer): unknown {
  const charset = CHARSET.exec(headers['content-type'] ?? '')?.[1] ?? 'utf-8';
  const encoding = headers['content-encoding'] ?? 'identity';
  if (charset.toLowerCase() !== 'utf-8' || encoding !== 'identity') {
    throw new Problem(problemKinds.unsupportedMediaType, {
      detail: 'Send the body as application/json in UTF-8, without a content encoding.',
    });
  }
  return parseJsonBody(body);
}
