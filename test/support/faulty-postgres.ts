import { inject } from 'vitest';
import { migrate } from '#src/database/migrate.ts';
import { startTestPostgres } from './test-server.ts';
import type { TestServer } from './test-server.ts';

/** A migrated Postgres of the test's own, to stop, kill and pause. */
export async function startFaultyPostgres(): Promise<
  AsyncDisposable & TestServer & Readonly<{ url: string }>
> {
  const server = await startTestPostgres(inject('infra'));
  await migrate(server.address);
  return { ...server, url: server.address, [Symbol.asyncDispose]: server.remove };
}
