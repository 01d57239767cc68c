import { describe, expect, test } from 'vitest';
import { ConfigInvalid, readConfig } from '#src/config.ts';

const DATABASE_URL = 'postgres://user:password@host:5432/database';

describe('the URL of the database', () => {
  test.each([
    DATABASE_URL,
    'postgresql://host/database',
    `${DATABASE_URL}?sslmode=verify-full&sslrootcert=/etc/ca.pem`,
    'postgres:///database?host=/run/postgresql',
  ])('may say where it is and how to trust it: %s', (url) => {
    expect(readConfig({ DATABASE_URL: url }).DATABASE_URL).toBe(url);
  });

  test.each([
    'options=-c%20synchronous_commit%3Doff',
    'statement_timeout=0',
    'lock_timeout=0',
    'idle_in_transaction_session_timeout=0',
    'query_timeout=0',
    'application_name=mine',
    'sslmode=require&options=-c%20work_mem%3D1GB',
  ])('may not set the sessions, which the service sets itself: ?%s', (query) => {
    expect(problemsOf({ DATABASE_URL: `${DATABASE_URL}?${query}` })).toEqual([
      expect.stringMatching(/^DATABASE_URL: may hold host, port, ssl.* in its query, nothing else/),
    ]);
  });

  test.each(['mysql://host/database', 'host/database'])('is one of Postgres, not %s', (url) => {
    expect(problemsOf({ DATABASE_URL: url })).toEqual(['DATABASE_URL: must be a postgres:// URL']);
  });
});

function problemsOf(env: Readonly<Record<string, string>>): readonly string[] {
  try {
    readConfig({ DATABASE_URL, ...env });
  } catch (error) {
    if (error instanceof ConfigInvalid) return error.problems;
    throw error;
  }
  return [];
}
