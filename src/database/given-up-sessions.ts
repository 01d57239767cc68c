import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import type { ClientConfig, PoolClient } from 'pg';
import type { Session } from './session.ts';

const LOOK_EVERY_MS = 2_000;
const LOOK_TIMEOUT_MS = 2_000;
/** The message of pg when it stops waiting for the result of a statement. The statement runs on. */
const GIVEN_UP = 'Query read timeout';

/**
 * Sessions whose client has stopped waiting while the server still works, for example in a commit that waits for a
 * standby. Closing the connection would not end such a session, because the server notices it only afterwards. So
 * the session keeps its place in its pool until it has ended, and no other is opened instead. The number of
 * sessions on the server therefore never exceeds the sizes of the pools.
 *
 * No statement is cancelled. A cancelled commit that waits for a standby becomes visible at once without being on
 * the standby, and a retry of its command would get a 2xx response.
 */
export type GivenUpSessions = Readonly<{
  /** Keeps the place of a session until it has ended, then calls `release` once. */
  keep(client: PoolClient, session: Session | undefined, release: () => void): void;
  count(): number;
  /** Releases all sessions. From now on `keep` releases at once. */
  close(): void;
}>;

/** Whether an error, or its cause, says that the client stopped waiting for a result. */
export function isGivenUp(error: unknown): boolean {
  return error instanceof Error && (error.message === GIVEN_UP || isGivenUp(error.cause));
}

type Kept = Readonly<{ session: Session | undefined; end: () => void }>;

/** A lost connection ends the session. The event `end` reports that. */
const ignoreError = () => {};

/** @param target how to connect to the server, to ask which sessions it still works for */
export function createGivenUpSessions(target: () => Promise<ClientConfig>): GivenUpSessions {
  const kept = new Set<Kept>();
  let added = Promise.withResolvers<void>();
  let isLooking = false;
  let isClosed = false;

  async function lookWhileAnyIsKept(): Promise<void> {
    isLooking = true;
    while (kept.size > 0) {
      added = Promise.withResolvers();
      await look().catch(ignoreError); // the next look may succeed
      await Promise.race([added.promise, delay(LOOK_EVERY_MS, undefined, { ref: false })]);
    }
    isLooking = false;
  }

  /** The server may have restarted, or may be another one, without a message on the old connection. */
  async function look(): Promise<void> {
    const asked = [...kept];
    const sessions = asked.flatMap(({ session }) => session ?? []);
    const working = await workingSessions(await target(), sessions);
    for (const { session, end } of asked) {
      if (session === undefined || !working.has(session.pid)) end();
    }
  }

  return {
    keep(client, session, release) {
      if (isClosed) {
        release();
        return;
      }
      const end = () => {
        if (!kept.delete(entry)) return;
        client.off('drain', end);
        client.off('end', atEnd);
        release();
        client.off('error', ignoreError);
      };
      // A pooler may close the connection while the server still works. Only a look tells.
      const atEnd = session?.isPooled ? () => added.resolve() : end;
      const entry: Kept = { session, end };
      kept.add(entry);
      client.on('error', ignoreError);
      client.once('drain', end); // the late result has come
      client.once('end', atEnd);
      added.resolve();
      if (!isLooking) void lookWhileAnyIsKept();
    },
    count: () => kept.size,
    close() {
      isClosed = true;
      for (const { end } of kept) end();
    },
  };
}

/**
 * The process ids of the sessions that the server still works for. A session that waits for its client is not among
 * them: the statement never arrived, or its result was lost. Closing the connection ends it.
 * @throws Error if the server is a standby
 */
async function workingSessions(
  connection: ClientConfig,
  sessions: readonly Session[],
): Promise<ReadonlySet<number>> {
  const client = new Client({
    ...connection,
    application_name: 'order-service session look-up',
    connectionTimeoutMillis: LOOK_TIMEOUT_MS,
    query_timeout: LOOK_TIMEOUT_MS,
  });
  client.on('error', ignoreError); // the query fails too
  try {
    await client.connect();
    const { rows } = await client.query<Readonly<{ isStandby: boolean; working: number[] }>>(
      `select pg_is_in_recovery() as "isStandby", array(
         select pid from pg_stat_activity
         join unnest($1::integer[], $2::timestamptz[]) as asked (pid, opened_at) using (pid)
         where backend_start <= opened_at and state not like 'idle%'
       ) as working`,
      [sessions.map(({ pid }) => pid), sessions.map(({ openedAt }) => openedAt)],
    );
    const [row] = rows;
    if (!row || row.isStandby)
      throw new Error('a standby does not know the sessions of the primary');
    return new Set(row.working);
  } finally {
    await client.end();
  }
}
