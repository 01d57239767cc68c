import { z } from 'zod';

import { withDeadline } from '#src/workers/worker.ts';
import { cachedRead } from './cached-read.ts';
import { bodyETag } from './entity-tags.ts';
import type { Metrics } from './metrics.ts';
import { route } from './route.ts';
import type { Route } from './route.ts';

const CHECK_TIMEOUT_MS = 2_000;
/** However many probes and scrapes come, there is one check and one reading of the metrics a second. */
const KEPT_MS = 1_000;

/** The result of a check. `details` are shown to everybody, so they must hold nothing secret. */
export type Health = Readonly<{ ready: boolean; details: Readonly<Record<string, unknown>> }>;

export type HealthDependencies = Readonly<{
  /** Checks what the service cannot work without, which Kafka is not. May fail or hang. */
  check: () => Promise<Health>;
  isDraining: () => boolean;
  metrics: Pick<Metrics, 'contentType' | 'text'>;
}>;

const readiness = z
  .looseObject({ status: z.enum(['ready', 'unready', 'draining']) })
  .meta({ id: 'Readiness' });

/** GET /livez, /readyz and /metrics. */
export function healthRoutes({ check, isDraining, metrics }: HealthDependencies): Route[] {
  // One check runs at a time, even if it hangs longer than anybody waits for it.
  const checkAlone = cachedRead(async () => check(), 0);
  const latest = cachedRead(() => inTime(checkAlone), KEPT_MS);
  const exposition = cachedRead(() => expose(metrics), KEPT_MS);
  return [
    route({
      method: 'GET',
      path: '/livez',
      operationId: 'livez',
      tag: 'Health',
      summary: 'Check that the process responds',
      description: 'Checks nothing else. Restart the process if this fails.',
      quiet: true,
      answers: {
        200: {
          description: 'The process responds.',
          schema: z.object({ status: z.literal('ok') }),
        },
      },
      handle: async () => ({ status: 200, body: { status: 'ok' as const } }),
    }),
    route({
      method: 'GET',
      path: '/readyz',
      operationId: 'readyz',
      tag: 'Health',
      summary: 'Check that this replica can take requests',
      description:
        'Fails while the database is unavailable or the process is stopping. Kafka may be unavailable.',
      quiet: true,
      answers: {
        200: { description: 'Ready.', schema: readiness },
        503: { description: 'Not ready or stopping; `reason` says why.', schema: readiness },
      },
      handle: async () => {
        if (isDraining()) return { status: 503, body: { status: 'draining' as const } };
        const { ready, details } = await latest();
        if (ready) return { status: 200, body: { ...details, status: 'ready' as const } };
        return { status: 503, body: { ...details, status: 'unready' as const } };
      },
    }),
    route({
      method: 'GET',
      path: '/metrics',
      operationId: 'metrics',
      tag: 'Health',
      summary: 'Read the metrics',
      description: 'For Prometheus. The values are refreshed at most once a second.',
      quiet: true,
      answers: {
        200: {
          description: 'The metrics in the Prometheus text format.',
          schema: z.string(),
          contentType: 'text/plain',
        },
      },
      handle: exposition,
    }),
  ];
}

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

async function expose({ contentType, text }: Pick<Metrics, 'contentType' | 'text'>) {
  const exposition = Buffer.from(await text());
  const headers = { etag: bodyETag(exposition) };
  return { status: 200 as const, text: exposition, contentType, headers };
}
