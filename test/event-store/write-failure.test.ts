import { DatabaseError } from 'pg';
import { describe, expect, test } from 'vitest';
import { writeFailureOf } from '#src/event-store/write-failure.ts';

const databaseError = (code: string) => {
  const error = new DatabaseError('failed', 0, 'error');
  error.code = code;
  return error;
};

describe('what an error says about its transaction', () => {
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
  ])('%s: %s, since %s', (code, failure) => {
    expect(writeFailureOf(databaseError(code))).toBe(failure);
  });

  test('an error without an SQLSTATE proves nothing', () => {
    expect(writeFailureOf(new Error('Query read timeout'))).toBe('unknown');
  });
});
