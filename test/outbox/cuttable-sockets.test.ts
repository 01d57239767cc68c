import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { createCuttableSockets } from '#src/outbox/cuttable-sockets.ts';

/** More than the buffers between two sockets hold. */
const BYTES = 50_000_000;

/** A port on which the next connection can be had from the other side. */
async function listen() {
  const peer = Promise.withResolvers<Socket>();
  const server = createServer({ pauseOnConnect: true }, peer.resolve).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  return {
    peer: peer.promise,
    target: { host: '127.0.0.1', port, ssl: {}, onConnect: () => {} },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

describe('cutting connections', () => {
  test('drops what was not sent, ends every socket with an error and opens no other', async () => {
    await using server = await listen();
    const sockets = createCuttableSockets();
    const socket = sockets.open(server.target);
    const peer = await server.peer;
    socket.write(Buffer.alloc(BYTES));
    const failed = once(socket, 'error');
    sockets.cut();
    expect(String(await failed)).toContain('the connection was cut');
    const closed = once(peer, 'close');
    peer.on('error', () => {}).resume();
    await closed;
    expect(peer.bytesRead).toBeLessThan(BYTES);
    expect(() => sockets.open(server.target)).toThrow('the connection was cut');
  });
});
