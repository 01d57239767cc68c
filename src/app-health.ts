import type { Pool } from 'pg';
import { SessionRefused } from './database/session.ts';
import type { Database } from './database/database.ts';
import type { Health } from './http/health-routes.ts';
import type { Relay } from './outbox/relay.ts';

/**
 * Ready while commands and reads get what they need of Postgres: a connection of their own pools, which
 * leads to a server that takes writes. Where commits hang, all connections of the write path are busy and
 * none is had in time. Kafka away is told and nothing more: events wait in the outbox, and the service can
 * do its work.
 *
 * One question is asked at a time, however often the check is called: a database that hangs is not asked
 * on more and more connections.
 */
export function createHealthCheck(
  { writer, reads }: Pick<Database, 'writer' | 'reads'>,
  relay: Pick<Relay, 'status'>,
): () => Promise<Health> {
  let asked: Promise<Health> | undefined;
  const ask = async (): Promise<Health> => {
    const fault = await Promise.all([takesWrites(writer), canBeRead(reads.pool)]).then(
      () => undefined,
      (error: unknown) => ({ database: 'unavailable', reason: reasonOf(error) }),
    );
    return {
      ready: fault === undefined,
      details: { ...(fault ?? { database: 'ok' }), outbox: relay.status() },
    };
  };
  return () => {
    asked ??= ask().finally(() => {
      asked = undefined;
    });
    return asked;
  };
}

/** @throws where no connection is had in time, or where it leads to a server that takes no writes */
async function takesWrites(writer: Pool): Promise<void> {
  const { rows } = await writer.query<{ setting: string }>(
    `select current_setting('transaction_read_only') as setting`,
  );
  if (rows[0]?.setting !== 'off') throw new Error('the server takes no writes');
}

/** Connections that are all in use were had; how long callers wait for them is not asked here. */
async function canBeRead(pool: Pool): Promise<void> {
  const isBusy = pool.idleCount === 0 && pool.totalCount >= pool.options.max;
  if (!isBusy) await pool.query('select 1');
}

/** Nothing secret: what the service itself says of a session, or the code by which Postgres refused. */
function reasonOf(error: unknown): string {
  if (error instanceof SessionRefused) return error.message;
  const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
  return `Postgres does not answer, or refuses connections${code}`;
}
