import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import type { ClientBase, ClientConfig } from 'pg';
import { SessionRefused } from './session.ts';

const PROOF_MS_MAX = 5_000;
/** An operator may change the mode of a pooler while it runs. */
const PROOF_LASTS_MS = 60_000;

/** Proves that a pooler keeps a session for its client. */
export type PoolerProof = Readonly<{
  /**
   * @param client a new session behind the pooler
   * @throws SessionRefused if the pooler shares sessions between clients
   */
  require(client: ClientBase): Promise<void>;
}>;

const ignoreError = () => {};

/**
 * In session mode a pooler keeps a session of the server for each client. In transaction mode it lends one for each
 * transaction, so the next statement may run without the role, the timeouts and `synchronous_commit`, or on a session
 * that another client has set. Looking whether settings are still there proves nothing: with few clients it is mostly
 * the same session.
 *
 * The proof is a notification. A client listens and then sends nothing. What the server sends to its session meanwhile
 * reaches it only if the session is still its own.
 * @param target how to connect through the pooler
 */
export function createPoolerProof(target: () => Promise<ClientConfig>): PoolerProof {
  let latest: Readonly<{ startedAt: number; result: Promise<void> }> | undefined;
  return {
    async require(client) {
      if (!latest || performance.now() - latest.startedAt > PROOF_LASTS_MS) {
        latest = { startedAt: performance.now(), result: prove(target, client) };
      }
      const proof = latest;
      try {
        await proof.result;
      } catch (error) {
        if (latest === proof) latest = undefined;
        throw error;
      }
    },
  };
}

async function prove(target: () => Promise<ClientConfig>, notifier: ClientBase): Promise<void> {
  const channel = `order_service_${randomUUID().replaceAll('-', '')}`;
  const heard = Promise.withResolvers<boolean>();
  const listener = new Client({
    ...(await target()),
    application_name: 'order-service pooler check',
    connectionTimeoutMillis: PROOF_MS_MAX,
    query_timeout: PROOF_MS_MAX,
  });
  listener.on('error', ignoreError); // the query fails too
  listener.on('notification', (notification) => {
    if (notification.channel === channel) heard.resolve(true);
  });
  try {
    await listener.connect();
    await listener.query(`listen ${channel}`);
    await notifier.query(`notify ${channel}`);
    const hasHeard = await Promise.race([
      heard.promise,
      delay(PROOF_MS_MAX, false, { ref: false }),
    ]);
    if (!hasHeard) {
      throw new SessionRefused(
        'the pooler does not keep a session for its client, as in transaction mode, so role, timeouts and ' +
          'synchronous_commit could be lost between two statements; set pool_mode=session for this database ' +
          'and user, or connect to Postgres itself',
        { isTemporary: false },
      );
    }
  } finally {
    await listener.end();
  }
}
