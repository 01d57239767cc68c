import { describe, expect, test } from 'vitest';
import { localUrl, withoutBrackets } from '#dev/addresses.ts';

describe('the URL of a server on this machine', () => {
  test.each([
    ['127.0.0.1', 'http://127.0.0.1:3000'],
    ['localhost', 'http://localhost:3000'],
    ['::1', 'http://[::1]:3000'],
    ['2001:db8::7', 'http://[2001:db8::7]:3000'],
    ['fe80::1%eth0', 'http://[fe80::1]:3000'],
  ])('names the host %s', (host, url) => {
    expect(localUrl(host, 3000)).toBe(url);
  });

  test.each([
    ['0.0.0.0', 'http://127.0.0.1:3000'],
    ['0', 'http://127.0.0.1:3000'],
    ['::', 'http://[::1]:3000'],
    ['0:0:0:0:0:0:0:0', 'http://[::1]:3000'],
    ['::ffff:0.0.0.0', 'http://127.0.0.1:3000'],
  ])('is that of the loopback address for %s, which is every address', (host, url) => {
    expect(localUrl(host, 3000)).toBe(url);
  });

  test('may have been copied with its brackets into HOST', () => {
    expect(withoutBrackets('[::1]')).toBe('::1');
    expect(withoutBrackets('127.0.0.1')).toBe('127.0.0.1');
  });
});
