import { Client } from 'pg';
import type { ClientConfig, PoolClient } from 'pg';
import type { Session } from './check-session.ts';

const LOOK_EVERY_MS = 2_000;
const LOOK_TIMEOUT_MS = 2_000;
/** What pg says when it stops waiting for the answer to a statement, which runs on. */
const GIVEN_UP = 'Query read timeout';

/**
 * Sessions whose client has stopped waiting while the server is still at work, as in a commit that waits
 * for a standby. To close the connection would not end them: the server looks at it only afterwards. So
 * each keeps its place in its pool until it has ended, and no other is opened in its stead: the number of
 * sessions on the server stays within the pools, whatever happens.
 *
 * Nothing is cancelled. A commit that is cancelled while it waits for a standby is visible at once without
 * being there, and a repeat of its command would be answered 2xx.
 */
export type GivenUpSessions = Readonly<{
  /** Keeps the place of the session until it has ended; then calls `release`, once. */
  keep(client: PoolClient, session: Session | undefined, release: () => void): void;
  /** How many there are. */
  count(): number;
  /** Releases all of them, and from now on each at once. */
  close(): void;
}>;

/** Losing the connection ends the session, which is heard of. */
const hearError = () => {};

type Kept = Readonly<{ session: Session | undefined; end: () => void }>;

/** Whether an error, or what caused it, says that the client stopped waiting for an answer. */
export function isGivenUp(error: unknown): boolean {
  return error instanceof Error && (error.message === GIVEN_UP || isGivenUp(error.cause));
}

/** `connection` leads to the server, for a look at which sessions it still has. */
export function createGivenUpSessions(connection: ClientConfig): GivenUpSessions {
  const kept = new Set<Kept>();
  let timer: NodeJS.Timeout | undefined;
  let isLooking = false;
  let hasNew = false;
  let isClosed = false;

  /** Looks once after `delayMs`, then again and again until nothing is kept. */
  function lookIn(delayMs: number): void {
    if (isLooking || kept.size === 0 || isClosed) return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      isLooking = true;
      hasNew = false;
      void look().finally(() => {
        isLooking = false;
        lookIn(hasNew ? 0 : LOOK_EVERY_MS);
      });
    }, delayMs);
    timer.unref();
  }

  /** The server may have restarted, or be another one by now, without a word on the old connection. */
  async function look(): Promise<void> {
    const asked = [...kept];
    const working = await workingOf(
      connection,
      asked.flatMap(({ session }) => session ?? []),
    ).catch(() => undefined); // what is not known is looked up again
    if (working === undefined) return;
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
        client.off('end', end);
        release();
        client.off('error', hearError);
      };
      const entry: Kept = { session, end };
      kept.add(entry);
      hasNew = true;
      client.on('error', hearError);
      client.once('drain', end); // the late answer has come
      client.once('end', end);
      lookIn(0);
    },
    count: () => kept.size,
    close() {
      isClosed = true;
      clearTimeout(timer);
      for (const { end } of kept) end();
    },
  };
}

/**
 * The process ids of those that the server is at work on; undefined where it is no server to ask. One that
 * waits for its client (the statement never came, or the response was lost) ends as soon as we close it.
 */
async function workingOf(
  connection: ClientConfig,
  sessions: readonly Session[],
): Promise<ReadonlySet<number> | undefined> {
  const client = new Client({
    ...connection,
    application_name: 'order-service session look-up',
    connectionTimeoutMillis: LOOK_TIMEOUT_MS,
    query_timeout: LOOK_TIMEOUT_MS,
  });
  client.on('error', () => {}); // the query fails, which is enough
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
    return rows[0] && !rows[0].isStandby ? new Set(rows[0].working) : undefined;
  } finally {
    await client.end();
  }
}
