import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

const DISCARD_BYTES_MAX = 16 * 1024 * 1024;
const DISCARD_TIME_MS_MAX = 5_000;

/** Part of the request's body has not been read yet. */
export function isBodyComing({ complete, readableEnded, headers }: IncomingMessage): boolean {
  if (complete || readableEnded) return false;
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

/** The body is too large by what its caller announced, so that it was never asked for. */
export function isUnasked({ headers }: IncomingMessage, bodyBytesMax: number): boolean {
  return headers.expect !== undefined && Number(headers['content-length']) > bodyBytesMax;
}

/**
 * Reads the rest of a body that nobody wants, up to 16 MiB and 5 s: closing a socket with unread data
 * resets it, and the caller would never see the response. Whoever answers a request whose body is still
 * coming does this first.
 */
export function discardBody(request: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    let bytesLeft = DISCARD_BYTES_MAX;
    const finish = () => {
      clearTimeout(timer);
      request.off('data', count).off('end', finish).off('close', finish);
      resolve();
    };
    const count = (chunk: Buffer) => {
      bytesLeft -= chunk.length;
      if (bytesLeft < 0) finish();
    };
    const timer = setTimeout(finish, DISCARD_TIME_MS_MAX);
    request.on('data', count).on('end', finish).on('close', finish).resume();
  });
}

/**
 * Throws away what still comes on a connection whose last response has been written, so that the peer
 * can read it; destroys the connection once the peer has closed its side or sent 16 MiB more.
 */
export function discardInput(socket: Socket): void {
  let bytesLeft = DISCARD_BYTES_MAX;
  const destroy = () => socket.destroy();
  // The HTTP parser listens here too: what is thrown away must not become a request.
  socket.removeAllListeners('data');
  socket.on('data', (chunk) => {
    bytesLeft -= chunk.length;
    if (bytesLeft < 0) destroy();
  });
  socket.on('end', destroy).on('error', destroy).resume();
}
