import { randomInt } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, isIPv6 } from 'node:net';

/**
 * Below the range from which operating systems take the local ports of outgoing connections. In that range,
 * a client that retries a server which is down can get the server's own port, and keep it.
 */
const FROM = 20_000;
const TO = 32_000;
const ATTEMPTS_MAX = 100;

/** Where a server that listens on all interfaces is reached from the same machine. */
const LOOPBACK: Readonly<Record<string, string>> = {
  '0.0.0.0': '127.0.0.1',
  '[::]': '[::1]',
  '[::ffff:0:0]': '127.0.0.1',
};

/** A port that nothing listens on. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    const port = randomInt(FROM, TO);
    if (await isFree(host, port)) return port;
  }
  throw new Error(`no free port between ${FROM} and ${TO}`);
}

/**
 * The port that the file contains, so that an address stays the same from start to start. A new port replaces
 * it if another program listens on it.
 * @param isOurs whether our own server is running, and may be what listens there
 */
export async function keptPort(file: string, isOurs: () => Promise<boolean>): Promise<number> {
  const kept = Number(await readFile(file, 'utf8').catch(() => ''));
  if (kept > 0 && ((await isFree('127.0.0.1', kept)) || (await isOurs()))) return kept;
  const port = await freePort();
  await writeFile(file, String(port));
  return port;
}

/**
 * Whether a server can listen there now.
 * @throws the error of the operating system, unless it is that another program listens there
 */
export function isFree(host: string, port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false);
      else reject(error);
    });
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** Removes the brackets of an address that is written as in a URL. */
export function withoutBrackets(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1');
}

/**
 * The URL of a server on this machine that listens on the host and the port. An IPv6 address gets
 * brackets, and the loopback address replaces the address of all interfaces.
 */
export function localUrl(host: string, port: number): string {
  // A URL has no room for the zone of a link-local address (`fe80::1%eth0`).
  const [address = ''] = host.split('%');
  const url = `http://${isIPv6(address) ? `[${address}]` : host}:${port}`;
  if (!URL.canParse(url)) return url;
  const { hostname } = new URL(url);
  return `http://${LOOPBACK[hostname] ?? hostname}:${port}`;
}
