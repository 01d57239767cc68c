import type { Pool } from 'pg';
import { explainTlsFailure } from './database/database-errors.ts';
import type { ClockWatch } from './database/clock.ts';
import type { Database } from './database/database.ts';
import { SessionRefused } from './database/session.ts';
import type { Health } from './http/health-routes.ts';
import type { Relay } from './outbox/relay.ts';

/**
 * The service is ready while commands and reads get a connection to a Postgres that takes writes,
 * and while the clock is right. Otherwise another replica can take the requests. If commits hang,
 * all connections of the write path are in use, and the check gets none in time. Kafka is only
 * reported: events wait in the outbox while it is unavailable.
 */
export function createHealthCheck(
  { writer, reads }: Pick<Database, 'writer' | 'reads'>,
  relay: Pick<Relay, 'status'>,
  clockWatch: Pick<ClockWatch, 'isOff' | 'offsetMs'>,
): () => Promise<Health> {
  return async () => {
    const database = await Promise.all([takesWrites(writer), canBeRead(reads.pool)]).then(
      () => ({ database: 'ok' }),
      (error: unknown) => ({ database: 'unavailable', reason: publicReason(error) }),
    );
    const isClockOff = clockWatch.isOff();
    const offSeconds = Math.round(clockWatch.offsetMs() / 1000);
    return {
      ready: database.database === 'ok' && !isClockOff,
      details: {
        ...database,
        outbox: relay.status(),
        ...(isClockOff && { clock: `${offSeconds} s off the database's` }),
      },
    };
  };
}

/** @throws if no connection is free in time, or if the server takes no writes */
async function takesWrites(writer: Pool): Promise<void> {
  const { rows } = await writer.query<{ setting: string }>(
    `select current_setting('transaction_read_only') as setting`,
  );
  if (rows[0]?.setting !== 'off') throw new Error('the server takes no writes');
}

/** If all connections are in use, they exist. How long callers wait for one is not checked here. */
async function canBeRead(pool: Pool): Promise<void> {
  const isBusy = pool.idleCount === 0 && pool.totalCount >= pool.options.max;
  if (!isBusy) await pool.query('select 1');
}

/** Contains nothing secret: what the service says about a session, or the code of the error. */
function publicReason(error: unknown): string {
  if (error instanceof SessionRefused) return error.publicMessage;
  const tls = explainTlsFailure(error);
  if (tls !== undefined) return `no TLS connection to Postgres: ${tls}`;
  const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
  return `Postgres does not respond, or refuses connections${code}`;
}
