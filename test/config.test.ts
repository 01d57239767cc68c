import { describe, expect, test } from 'vitest';
import { ConfigInvalid, describeConfig, readConfig, readKafkaConfig } from '#src/config.ts';

const DATABASE_URL = 'postgres://user:password@host:5432/database';

describe('the URL of the database', () => {
  test.each([
    DATABASE_URL,
    'postgresql://host/database',
    `${DATABASE_URL}?sslmode=verify-full&sslrootcert=${import.meta.filename}`,
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

  test.each(['postgres:secret', 'postgres:///database', 'postgresql:user@host/database'])(
    'names a host, not %s',
    (url) => {
      expect(problemsOf({ DATABASE_URL: url })).toEqual([
        expect.stringMatching(/^DATABASE_URL: must name a host/),
      ]);
    },
  );

  test.each(['sslrootcert', 'sslcert', 'sslkey'])('names a %s that can be read', (name) => {
    expect(problemsOf({ DATABASE_URL: `${DATABASE_URL}?${name}=/nowhere/ca.pem` })).toEqual([
      `DATABASE_URL: names a file that cannot be read: ${name}=/nowhere/ca.pem`,
    ]);
  });

  test.each(['mysql://host/database', 'host/database'])('is one of Postgres, not %s', (url) => {
    expect(problemsOf({ DATABASE_URL: url })).toEqual(['DATABASE_URL: must be a postgres:// URL']);
  });
});

describe('a number', () => {
  test('is the given value, or the default if none is given', () => {
    expect(readConfig({ DATABASE_URL, PORT: '8080', OUTBOX_MAX_ROWS: '16' })).toMatchObject({
      PORT: 8080,
      OUTBOX_MAX_ROWS: 16,
    });
    expect(readConfig({ DATABASE_URL, PORT: '' }).PORT).toBe(3000);
  });

  test.each([' ', '0x10', '1e3', '80.0', '-1', '+80', ' 80', '٣'])('is not %j', (PORT) => {
    expect(problemsOf({ PORT })).toEqual(['PORT: must be a whole number, in digits']);
  });

  test.each(['65536', '99999999999999999999'])('has bounds: %s', (PORT) => {
    expect(problemsOf({ PORT })).toEqual([expect.stringMatching(/^PORT: .*65535/)]);
  });
});

describe('the brokers', () => {
  test.each(['kafka:9092', 'a:1,b-2.example:65535', '[::1]:9092'])('may be %s', (KAFKA_BROKERS) => {
    expect(readConfig({ DATABASE_URL, KAFKA_BROKERS }).KAFKA_BROKERS).toEqual(
      KAFKA_BROKERS.split(','),
    );
  });

  test.each(['a:1, b:2', 'a:1,b:2,', ' a:1 ,, b:2 '])('may be spaced: %j', (KAFKA_BROKERS) => {
    expect(readConfig({ DATABASE_URL, KAFKA_BROKERS }).KAFKA_BROKERS).toEqual(['a:1', 'b:2']);
    expect(readKafkaConfig({ KAFKA_BROKERS })).toEqual({
      KAFKA_BROKERS: ['a:1', 'b:2'],
      KAFKA_TOPIC: 'order.events',
    });
  });

  test.each(['kafka', 'kafka:0', 'kafka:65536', 'kafka:99999', '::1:9092', 'a:1,b'])(
    'may not be %s',
    (KAFKA_BROKERS) => {
      expect(problemsOf({ KAFKA_BROKERS })).toEqual([
        'KAFKA_BROKERS: must be host:port, comma separated',
      ]);
    },
  );
});

test('every setting is listed with its default', () => {
  const text = describeConfig();
  expect(text).toMatch(/^PORT +3000 /m);
  expect(text).toMatch(/^RELAY +on /m);
  expect(text).toMatch(/^DATABASE_URL +required /m);
  expect(text).toMatch(/^TEST_INFRA .*docker, embedded or none/m);
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
