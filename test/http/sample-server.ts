import type { AddressInfo } from 'node:net';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { pino } from 'pino';
import { z } from 'zod';
import type { ChannelSpec } from '#src/http/asyncapi.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { queryInteger, safeText, uuid } from '#src/http/fields.ts';
import { idempotencyKey } from '#src/http/idempotency.ts';
import type { KeyedRequest } from '#src/http/idempotency.ts';
import { response } from '#src/http/openapi.ts';
import { Problem } from '#src/http/problem.ts';
import type { ProblemKind } from '#src/http/problem.ts';
import { sendText } from '#src/http/responses.ts';
import { createServer } from '#src/http/server.ts';
import type { ServerOptions } from '#src/http/server.ts';
import { requestMetadata } from '#src/http/request-head.ts';

export const THING_ID = '01999e5c-7c1f-7d3a-9f52-3b6f0c9d2a11';

export const thingBusy: ProblemKind = {
  code: 'thing_busy',
  status: 503,
  title: 'Thing busy',
  advice: 'Wait.',
};

const thing = z.object({ thingId: uuid, version: z.int() }).meta({ id: 'Thing' });

export const thingBody = z.strictObject({
  name: safeText(1, 64),
  items: z
    .array(z.strictObject({ sku: safeText(1, 10), quantity: z.int().min(1).max(100_000) }))
    .min(1)
    .max(200),
  note: z.string().max(20).optional(),
});

/** What a handler got. */
export type SeenRequest = Readonly<{
  params: unknown;
  query: unknown;
  body: unknown;
  keyed: KeyedRequest | undefined;
  metadata: ReturnType<typeof requestMetadata>;
}>;

const makeThing = {
  operationId: 'makeThing',
  tags: ['Things'],
  summary: 'Make a thing',
  headers: z.object({ 'idempotency-key': idempotencyKey.optional() }),
  body: thingBody.meta({ examples: [{ name: 'one', items: [{ sku: 'a', quantity: 1 }] }] }),
  response: { 201: response(thing, 'Made.', ['ETag', 'Location']) },
};
const readThing = {
  operationId: 'readThing',
  tags: ['Things'],
  summary: 'Read a thing',
  params: z.strictObject({ thingId: uuid }),
  querystring: z.strictObject({ version: queryInteger(1, 1000).default(7) }),
  response: { 200: response(thing, 'The thing.') },
};
const pokeThing = {
  operationId: 'pokeThing',
  tags: ['Things'],
  summary: 'Poke a thing; takes no body',
  params: z.strictObject({ thingId: uuid }),
  response: { 204: z.undefined().describe('Poked.') },
};

const access = { scope: 'orders:read', customers: false } as const;

/** Routes of every form, so that the server can be tested without any of the service's own. */
export function sampleRoutes(
  onRequest: (request: SeenRequest) => Promise<void> = async () => {},
  { quiet = false } = {},
): FastifyPluginAsyncZod {
  const seen = (request: FastifyRequest) => {
    const { params, query, body, keyed } = request;
    return onRequest({ params, query, body, keyed, metadata: requestMetadata(request) });
  };
  return async (app) => {
    app.post(
      '/v1/things',
      { schema: makeThing, config: { access, problems: [thingBusy], quiet } },
      async (request, reply) => {
        await seen(request);
        return sendText(reply, {
          status: 201,
          etag: versionETag(1),
          location: `/v1/things/${THING_ID}`,
          body: `{"thingId":"${THING_ID}","version":1}`,
        });
      },
    );
    app.get(
      '/v1/things/:thingId',
      { schema: readThing, config: { access, quiet } },
      async (request, reply) => {
        await seen(request);
        const { thingId } = request.params;
        const { version } = request.query;
        return reply.header('etag', versionETag(version)).send({ thingId, version });
      },
    );
    app.post(
      '/v1/things/:thingId/poke',
      { schema: pokeThing, config: { access, quiet } },
      async (request, reply) => {
        await seen(request);
        return reply.code(204).send();
      },
    );
  };
}

/** What a service that publishes things would document. */
export const sampleChannel: ChannelSpec = {
  name: 'things',
  title: 'What happens to things',
  description: 'Once or more.',
  topic: 'things',
  newTopic: { partitions: 1, replication: 1 },
  key: uuid,
  messages: [
    {
      name: 'thing.made.v1',
      title: 'Thing made',
      summary: 'A thing was <made>.',
      headers: z.object({ ce_type: z.literal('thing.made.v1') }),
      payload: z.object({ thingId: uuid, version: z.int() }),
      example: {
        headers: { ce_type: 'thing.made.v1' },
        payload: { thingId: THING_ID, version: 1 },
      },
    },
  ],
};

export type SampleServer = Readonly<{
  app: FastifyInstance;
  /** What was logged, parsed. */
  lines: Record<string, unknown>[];
  /** Every line as it was written. */
  raw: string[];
  /** Starts to listen; returns the port. */
  listen(): Promise<number>;
  [Symbol.asyncDispose](): Promise<void>;
}>;

/** A server with the sample routes, or others, whose log can be read. */
export function sampleServer({
  routes = sampleRoutes(),
  level = 'info',
  authentication = 'off',
  ...options
}: Partial<Omit<ServerOptions, 'log'>> & {
  level?: string;
  routes?: FastifyPluginAsyncZod;
} = {}): SampleServer {
  const raw: string[] = [];
  const lines: Record<string, unknown>[] = [];
  const log = pino(
    { level },
    {
      write: (line: string) => {
        raw.push(line);
        lines.push(z.record(z.string(), z.unknown()).parse(JSON.parse(line)));
      },
    },
  );
  const app = createServer({ ...options, authentication, log });
  void app.register(routes);
  return {
    app,
    lines,
    raw,
    listen: async () => {
      await app.listen({ host: '127.0.0.1', port: 0 });
      return portOf(app);
    },
    [Symbol.asyncDispose]: async () => app.close(),
  };
}

export function portOf(app: FastifyInstance): number {
  return z
    .object({ port: z.number() })
    .parse(app.server.address() satisfies AddressInfo | string | null).port;
}

/** A body that the sample routes take. */
export const goodThing = { name: 'one', items: [{ sku: 'a', quantity: 1 }] };

/** A problem thrown by a handler. */
export function busy(): Problem {
  return new Problem(thingBusy, { detail: 'Wait.', retryAfterSeconds: 2.2 });
}
