import type { Pool } from 'pg';
import type { Health } from './http/health-routes.ts';
import type { Relay } from './outbox/relay.ts';

/**
 * Ready while Postgres answers. Kafka away is told and nothing more: events wait in the outbox, and
 * the service can do its work.
 */
export async function checkHealth(pool: Pool, relay: Pick<Relay, 'status'>): Promise<Health> {
  const database = await pool.query('select 1').then(
    () => 'ok',
    () => 'unavailable',
  );
  return { ready: database === 'ok', details: { database, outbox: relay.status() } };
}
