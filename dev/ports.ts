import { randomInt } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';

/**
 * Below the range from which systems take the local ports of outgoing connections: there a client
 * that retries a server which is down could be given that server's own port, and keep it.
 */
const FROM = 20_000;
const TO = 32_000;
const ATTEMPTS_MAX = 100;

/** A port that nothing listens on. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    const port = randomInt(FROM, TO);
    if (await isFree(host, port)) return port;
  }
  throw new Error(`no free port between ${FROM} and ${TO}`);
}

/**
 * The port that is written in the file, so that an address stays the same from start to start. Another
 * takes its place when somebody else listens on it; whether it is still our own server is the caller's to say.
 */
export async function keptPort(file: string, isOurs: () => Promise<boolean>): Promise<number> {
  const kept = Number(await readFile(file, 'utf8').catch(() => ''));
  if (kept > 0 && ((await isFree('127.0.0.1', kept)) || (await isOurs()))) return kept;
  const port = await freePort();
  await writeFile(file, String(port));
  return port;
}

/**
 * Whether a server could listen there now.
 * @throws the error of the system if it is not for another listener: no such address, no permission
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
