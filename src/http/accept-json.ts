import type { FastifyInstance, FastifyRequest } from 'fastify';

import { isJson } from './command-headers.ts';
import { parseJsonBody } from './json-body.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';

/** The registered name of UTF-8, and how many clients misspell it. */
const UTF_8 = new Set(['utf-8', 'utf8']);
const CHARSET = /;\s*charset\s*=\s*"?([^\s;"]*)/i;

/**
 * Takes bodies as JSON in UTF-8 only: any other media type is answered with 415. An empty body has none:
 * `curl -d ''` calls it a form.
 */
export function acceptJsonOnly(app: FastifyInstance): void {
  app.addHook('onRequest', ({ raw: { headers } }, _, done) => {
    if (headers['content-length'] === '0' && !isJson(headers)) delete headers['content-type'];
    done();
  });
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
  if (!UTF_8.has(charset.toLowerCase()) || encoding !== 'identity') {
    throw new Problem(problemKinds.unsupportedMediaType, {
      detail: 'Send the body as application/json in UTF-8, without a content encoding.',
    });
  }
  return parseJsonBody(body);
}
