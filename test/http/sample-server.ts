import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { z } from 'zod';
import type { ChannelSpec } from '#src/http/asyncapi.ts';
import { versionETag } from '#src/http/entity-tags.ts';
import { queryInteger, safeText, uuid, wholeNumber } from '#src/http/fields.ts';
import { idempotencyKey } from '#src/http/idempotency.ts';
import { Problem } from '#src/http/problem.ts';
import type { ProblemKind } from '#src/http/problem.ts';
import { route } from '#src/http/route.ts';
import type { Route, RouteRequest } from '#src/http/route.ts';
import { createServer } from '#src/http/server.ts';
import type { ServerOptions } from '#src/http/server.ts';

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
    .array(z.strictObject({ sku: safeText(1, 10), quantity: wholeNumber(1, 100_000) }))
    .min(1)
    .max(200),
  note: z.string().max(20).optional(),
});

/** Routes of every form, so that the server can be tested without any of the service's own. */
export function sampleRoutes(
  onRequest: (
    request: RouteRequest<unknown, unknown, unknown, unknown>,
  ) => Promise<void> = async () => {},
): Route[] {
  return [
    route({
      method: 'POST',
      path: '/v1/things',
      operationId: 'makeThing',
      tag: 'Things',
      summary: 'Make a thing',
      headers: z.object({ 'idempotency-key': idempotencyKey.optional() }),
      body: thingBody,
      example: { name: 'one', items: [{ sku: 'a', quantity: 1 }] },
      answers: {
        201: { description: 'Made.', schema: thing, headers: ['ETag', 'Location'] },
      },
      problems: [thingBusy],
      handle: async (request) => {
        await onRequest(request);
        return {
          status: 201,
          text: `{"thingId":"${THING_ID}","version":1}`,
          headers: { etag: versionETag(1), location: `/v1/things/${THING_ID}` },
        };
      },
    }),
    route({
      method: 'GET',
      path: '/v1/things/{thingId}',
      operationId: 'readThing',
      tag: 'Things',
      summary: 'Read a thing',
      params: z.strictObject({ thingId: uuid }),
      query: z.strictObject({ version: queryInteger(1, 1000).default(7) }),
      answers: { 200: { description: 'The thing.', schema: thing } },
      handle: async (request) => {
        await onRequest(request);
        const { params, query } = request;
        const etag = versionETag(query.version);
        const body = { thingId: params.thingId, version: query.version };
        return { status: 200, body, headers: { etag } };
      },
    }),
    route({
      method: 'POST',
      path: '/v1/things/{thingId}/poke',
      operationId: 'pokeThing',
      tag: 'Things',
      summary: 'Poke a thing; takes no body',
      params: z.strictObject({ thingId: uuid }),
      answers: { 204: { description: 'Poked.' } },
      handle: async (request) => {
        await onRequest(request);
        return { status: 204 };
      },
    }),
  ];
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
export function sampleServer(
  options: Partial<Omit<ServerOptions, 'log'>> & { level?: string } = {},
): SampleServer {
  const raw: string[] = [];
  const lines: Record<string, unknown>[] = [];
  const log = pino(
    { level: options.level ?? 'info' },
    {
      write: (line: string) => {
        raw.push(line);
        lines.push(z.record(z.string(), z.unknown()).parse(JSON.parse(line)));
      },
    },
  );
  const app = createServer({ routes: sampleRoutes(), ...options, log });
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
