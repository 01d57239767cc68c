import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyRequest } from 'fastify';

import { isJson } from './command-headers.ts';
import { parseJsonBody } from './json-body.ts';
import { problemKinds } from './problem-kinds.ts';
import { Problem } from './problem.ts';
import { readBody } from './request-body.ts';

/** The registered name of UTF-8, and how many clients misspell it. */
const UTF_8 = new Set(['utf-8', 'utf8']);
const CHARSET = /;\s*charset\s*=\s*"?([^\s;"]*)/i;

/**
 * Takes bodies as JSON in UTF-8 only: any other media type is answered with 415. An empty body has none:
 * `curl -d ''` calls it a form. `hold` counts the bytes of a body that are kept in memory, and says
 * whether there is room for them.
 */
export function acceptJsonOnly(
  app: FastifyInstance,
  bytesMax: number,
  hold: (request: IncomingMessage, bytes: number) => boolean,
): void {
  app.addHook('onRequest', ({ raw: { headers } }, _, done) => {
    if (headers['content-length'] === '0' && !isJson(headers)) delete headers['content-type'];
    done();
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    'application/json',
    async (request: FastifyRequest, body: IncomingMessage) => {
      refuseOtherEncodings(request);
      const announcedBytes = Number(request.headers['content-length']);
      const limits = { bytesMax, hold: (bytes: number) => hold(body, bytes) };
      return parseJsonBody(await readBody(body, announcedBytes, limits));
    },
  );
}

function refuseOtherEncodings({ headers }: FastifyRequest): void {
  const charset = CHARSET.exec(headers['content-type'] ?? '')?.[1] ?? 'utf-8';
  const encoding = headers['content-encoding'] ?? 'identity';
  if (!UTF_8.has(charset.toLowerCase()) || encoding !== 'identity') {
    throw new Problem(problemKinds.unsupportedMediaType, {
      detail: 'Send the body as application/json in UTF-8, without a content encoding.',
    });
  }
}
