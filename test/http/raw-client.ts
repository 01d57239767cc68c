import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';

/** One TCP connection, written and read by hand. */
export type RawClient = Readonly<{
  socket: Socket;
  /** All that has come so far. */
  received(): string;
  /** Waits until `pattern` has come; throws when the connection ends before. */
  until(pattern: RegExp): Promise<string>;
  /** How the connection ended: its end was told, or it was reset. */
  ended: Promise<'closed' | 'reset'>;
}>;

export async function rawClient(port: number): Promise<RawClient> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  let received = '';
  let failure: Error | undefined;
  socket.on('data', (chunk: Buffer) => {
    received += chunk.toString('latin1');
  });
  socket.on('error', (error) => {
    failure = error;
  });
  const ended = new Promise<'closed' | 'reset'>((resolve) => {
    socket.once('close', () => resolve(failure === undefined ? 'closed' : 'reset'));
  });
  return {
    socket,
    received: () => received,
    ended,
    until: (pattern) =>
      new Promise((resolve, reject) => {
        const look = () => {
          if (!pattern.test(received)) return;
          socket.off('data', look);
          resolve(received);
        };
        socket.on('data', look);
        socket.once('close', () => reject(new Error(`ended before ${pattern}: ${received}`)));
        look();
      }),
  };
}

/** The text of a request. */
export function requestText(
  method: string,
  path: string,
  headers: readonly string[],
  body = '',
): string {
  const all = ['host: localhost', ...headers];
  return `${method} ${path} HTTP/1.1\r\n${all.join('\r\n')}\r\n\r\n${body}`;
}
