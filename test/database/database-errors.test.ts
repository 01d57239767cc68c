import { lookup } from 'node:dns/promises';
import { connect } from 'node:net';
import { DatabaseError } from 'pg';
import { describe, expect, test } from 'vitest';
import { isOutage, writeFailureOf } from '#src/database/database-errors.ts';

describe('an outage of Postgres', () => {
  test.each([
    'EAI_AGAIN', // the name server does not respond
    'ENOTFOUND',
    'ECONNREFUSED',
    'ECONNRESET',
    'ETIMEDOUT',
    'EHOSTUNREACH',
    'EPIPE',
  ])('is a system error: %s', (code) => {
    expect(isOutage(Object.assign(new Error(`getaddrinfo ${code}`), { code }))).toBe(true);
  });

  test('is the error for an unknown name and for a closed port', async () => {
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
      'a wrong call of a Node function',
      Object.assign(new Error('x'), { code: 'ERR_INVALID_ARG_TYPE' }),
    ],
    ['any other error', new TypeError('x is not a function')],
    ['no error', undefined],
  ])('is not %s', (_, error) => {
    expect(isOutage(error)).toBe(false);
  });
});

describe('what is known of a write that failed', () => {
  test.each([
    ['57P01', 'unknown', 'the server is going down: the commit may have been first'],
    ['08006', 'unknown', 'the connection failed'],
    ['53100', 'not_applied', 'the disk is full'],
    ['57014', 'not_applied', 'the statement took too long'],
    ['25006', 'not_applied', 'the server takes no writes'],
    ['0A000', 'not_applied', 'a prepared statement has another result type by now'],
    ['26000', 'not_applied', 'a prepared statement is not there any more'],
    ['40P01', 'contended', 'a deadlock'],
    ['55P03', 'contended', 'a lock took too long'],
    ['23514', 'refused', 'a check failed'],
    ['22P05', 'refused', 'text that cannot be stored'],
  ])('%s is %s, because %s', (code, failure) => {
    expect(writeFailureOf(sqlState(code))).toBe(failure);
  });

  test('an error without an SQLSTATE is unknown', () => {
    expect(writeFailureOf(new Error('Query read timeout'))).toBe('unknown');
  });
});

function sqlState(code: string): DatabaseError {
  return Object.assign(new DatabaseError('x', 1, 'error'), { code });
}
