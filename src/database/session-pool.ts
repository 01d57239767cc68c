import { Pool } from 'pg';
import type { ClientBase, PoolClient, PoolConfig } from 'pg';
import { checkSession, SessionRefused } from './check-session.ts';
import type { ServerIdentity, Session } from './check-session.ts';
import { isGivenUp } from './given-up-sessions.ts';
import type { GivenUpSessions } from './given-up-sessions.ts';
import type { SessionSettings } from './session-settings.ts';
import { wrapConnect } from './wrap-connect.ts';

/** A connection is replaced after 4 to 6 minutes, so that none leads to where nobody should be for long. */
const LIFETIME_S = { min: 240, spread: 120 };

/** The server that the newest session is on. Sessions of an earlier one are not used any more. */
export type CurrentServer = {
  /** @throws SessionRefused where a standby was promoted since this server was the primary */
  admit(server: ServerIdentity): void;
  isCurrent(server: ServerIdentity): boolean;
};

export type SessionPoolOptions = Readonly<{
  config: PoolConfig;
  /** As the sessions are opened with; `config` has them as its startup parameter. */
  settings: SessionSettings;
  server: CurrentServer;
  givenUp: GivenUpSessions;
}>;

/**
 * A pool of pg whose sessions are checked once, when they are opened: on a server that takes writes, with
 * the settings that they should have. `connect` and `query` throw SessionRefused otherwise.
 */
export function createSessionPool({ config, settings, server, givenUp }: SessionPoolOptions): Pool {
  const sessions = new WeakMap<ClientBase, Session>();
  const hooks = {
    onConnect: async (client: ClientBase) => {
      const session = await checkSession(client, settings);
      server.admit(session.server);
      sessions.set(client, session);
    },
  };
  const pool = new Pool({
    ...config,
    maxLifetimeSeconds: LIFETIME_S.min + Math.floor(Math.random() * LIFETIME_S.spread),
    ...hooks,
  });

  const keepGivenUp = (client: PoolClient) => {
    const release = client.release.bind(client);
    client.release = (error) => {
      if (!isGivenUp(error)) release(error);
      else givenUp.keep(client, sessions.get(client), () => release(true));
    };
  };

  wrapConnect(pool, (connect) => {
    const connectToCurrent: typeof connect = (callback) => {
      connect((error, client, release) => {
        const session = client && sessions.get(client);
        if (client === undefined || session === undefined) {
          callback(error, client, release);
        } else if (server.isCurrent(session.server)) {
          keepGivenUp(client);
          callback(undefined, client, (error) => client.release(error));
        } else {
          client.release(true);
          connectToCurrent(callback);
        }
      });
    };
    return connectToCurrent;
  });
  return pool;
}

export function createCurrentServer(): CurrentServer {
  let current: ServerIdentity | undefined;
  return {
    admit(server) {
      if (current?.system === server.system && server.timeline < current.timeline) {
        throw new SessionRefused(
          `the server is on timeline ${server.timeline}, a former primary: ` +
            `a standby was promoted to timeline ${current.timeline}`,
          { isTemporary: true },
        );
      }
      current = server;
    },
    isCurrent: (server) =>
      current !== undefined &&
      server.system === current.system &&
      server.timeline === current.timeline &&
      server.startedAt === current.startedAt,
  };
}
