import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';

import { withDeadline } from '#src/workers/worker.ts';
import { cachedRead } from './metrics.ts';
import { bodyETag } from './entity-tags.ts';
import type { Metrics } from './metrics.ts';
import { response } from './openapi.ts';

const CHECK_TIMEOUT_MS = 2_000;
/** There is at most one check and one read of the metrics per second, however many requests come. */
const KEPT_MS = 1_000;

/** The result of a check. `details` are public, so they must contain no secret. */
export type Health = Readonly<{ ready: boolean; details: Readonly<Record<string, unknown>> }>;

export type HealthDependencies = Readonly<{
  /** Checks what the service needs to work. It does not need Kafka. May fail or hang. */
  check: () => Promise<Health>;
  isDraining: () => boolean;
  /** If unset, there is no /metrics. */
  metrics?: Pick<Metrics, 'contentType' | 'text'>;
}>;

const readiness = z
  .looseObject({ status: z.enum(['ready', 'unready', 'draining']) })
  .meta({ id: 'Readiness' });

/** GET /livez and /readyz, and /metrics if there are any. */
export const healthRoutes: FastifyPluginAsyncZod<HealthDependencies> = async (
  app,
  { check, isDraining, metrics },
) => {
  // One check runs at a time, even if it hangs after its deadline.
  const checkAlone = cachedRead(async () => check(), 0);
  const latest = cachedRead(() => inTime(checkAlone), KEPT_MS);
  const config = { access: 'public', quiet: true } as const;

  const livez = {
    operationId: 'livez',
    tags: ['Health'],
    summary: 'Check that the process responds',
    description: 'Checks nothing else. Restart the process if this fails.',
    response: {
      200: response(z.object({ status: z.literal('ok') }), 'The process responds.'),
    },
  };
  app.get('/livez', { config, schema: livez }, async (_, reply) => reply.send({ status: 'ok' }));

  const readyz = {
    operationId: 'readyz',
    tags: ['Health'],
    summary: 'Check that this replica can take requests',
    description:
      'Fails while the database is unavailable or the process is stopping. Kafka may be unavailable.',
    response: {
      200: response(readiness, 'Ready.'),
      503: response(readiness, 'Not ready or stopping; `reason` says why.'),
    },
  };
  app.get('/readyz', { config, schema: readyz }, async (_, reply) => {
    if (isDraining()) return reply.code(503).send({ status: 'draining' });
    const { ready, details } = await latest();
    return ready
      ? reply.send({ ...details, status: 'ready' })
      : reply.code(503).send({ ...details, status: 'unready' });
  });

  if (metrics === undefined) return;
  const exposition = cachedRead(() => expose(metrics), KEPT_MS);
  const metricsSchema = {
    operationId: 'metrics',
    tags: ['Health'],
    summary: 'Read the metrics',
    description: 'For Prometheus. The values are refreshed at most once a second.',
    response: {
      200: response(z.string(), 'The metrics in the Prometheus text format.', [], 'text/plain'),
    },
  };
  app.get('/metrics', { config, schema: metricsSchema }, async (_, reply) => {
    const { text, etag } = await exposition();
    return reply.header('etag', etag).type(metrics.contentType).send(text);
  });
};

async function inTime(check: () => Promise<Health>): Promise<Health> {
  try {
    return await withDeadline(check(), CHECK_TIMEOUT_MS, () => unready('the check took too long'));
  } catch {
    return unready('the check failed');
  }
}

function unready(reason: string): Health {
  return { ready: false, details: { reason } };
}

async function expose({ text }: Pick<Metrics, 'text'>) {
  const exposition = await text();
  return { text: exposition, etag: bodyETag(exposition) };
}
