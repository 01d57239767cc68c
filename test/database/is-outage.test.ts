import { lookup } from 'node:dns/promises';
import { connect } from 'node:net';
import { DatabaseError } from 'pg';
import { describe, expect, test } from 'vitest';
import { isOutage } from '#src/database/is-outage.ts';

describe('an outage of Postgres', () => {
  test.each([
    'EAI_AGAIN', // the name server does not answer
    'ENOTFOUND',
    'ECONNREFUSED',
    'ECONNRESET',
    'ETIMEDOUT',
    'EHOSTUNREACH',
    'EPIPE',
  ])('is an error of the system: %s', (code) => {
    expect(isOutage(Object.assign(new Error(`getaddrinfo ${code}`), { code }))).toBe(true);
  });

  test('is what the system says itself of a name and of a port that nobody has', async () => {
    const unknownName = await lookup('nobody.invalid').catch((error: unknown) => error);
    const closedPort = await new Promise((resolve) => {
      connect(1, '127.0.0.1').on('error', resolve);
    });
    expect([unknownName, closedPort].map(isOutage)).toEqual([true, true]);
  });

  test.each(['08006', '53300', '57P01', '57014'])('is SQLSTATE %s', (code) => {
    expect(isOutage(sqlState(code))).toBe(true);
  });

  test.each([
    ['a fault of the statement', sqlState('42P01')],
    ['a wrong password', sqlState('28P01')],
    [
      'a fault of ours in calling Node',
      Object.assign(new Error('x'), { code: 'ERR_INVALID_ARG_TYPE' }),
    ],
    ['any other error', new TypeError('x is not a function')],
    ['no error', undefined],
  ])('is not %s', (_, error) => {
    expect(isOutage(error)).toBe(false);
  });
});

function sqlState(code: string): DatabaseError {
  return Object.assign(new DatabaseError('x', 1, 'error'), { code });
}
