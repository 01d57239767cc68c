import { randomUUID } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

import { problemKinds } from './problem-kinds.ts';
import { PROBLEM_MEDIA_TYPE, Problem, problemBody } from './problem.ts';

const DISCARD_BYTES_MAX = 16 * 1024 * 1024;
const DISCARD_TIME_MS_MAX = 5_000;

/**
 * Reads the rest of a body that nobody wants, within bounds: closing a socket with unread data
 * resets it, and the caller would never see the answer.
 */
export function discardBody(request: IncomingMessage, then: () => void): void {
  let bytesLeft = DISCARD_BYTES_MAX;
  const finish = () => {
    clearTimeout(timer);
    request.off('data', count).off('end', finish).off('close', finish);
    then();
  };
  const count = (chunk: Buffer) => {
    bytesLeft -= chunk.length;
    if (bytesLeft < 0) finish();
  };
  const timer = setTimeout(finish, DISCARD_TIME_MS_MAX);
  request.on('data', count).on('end', finish).on('close', finish).resume();
}

/**
 * Answers `Expect: 100-continue`: a body that is announced as too large is never asked for. Such a
 * request goes on to `handle`, which refuses it; Node then closes the connection.
 */
export function answerExpectations(
  server: Server,
  bodyBytesMax: number,
  handle: (request: IncomingMessage, response: ServerResponse) => void,
): void {
  server.on('checkExpectation', (_request: IncomingMessage, response: ServerResponse) => {
    const problem = new Problem(problemKinds.expectationFailed, {
      detail:
        'Only `Expect: 100-continue` is understood here. Send the request without the header.',
    });
    const body = problemBody(problem, randomUUID());
    response.writeHead(problem.status, {
      'content-type': PROBLEM_MEDIA_TYPE,
      'content-length': Buffer.byteLength(body),
      connection: 'close',
    });
    response.end(body);
  });
  server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    const isTooLarge = Number(request.headers['content-length']) > bodyBytesMax;
    if (!isTooLarge) response.writeContinue();
    handle(request, response);
  });
}

/** Ends what would keep a closing server waiting, and whatever is left after `timeoutMs`. */
export type ConnectionCloser = Readonly<{ start(): void; stop(): void }>;

/** Node counts a connection that never sent a byte as busy, so those are remembered here. */
export function createConnectionCloser(server: Server, timeoutMs: number): ConnectionCloser {
  const sockets = new Set<Socket>();
  let timer: NodeJS.Timeout | undefined;
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  return {
    start: () => {
      for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy();
      timer = setTimeout(() => server.closeAllConnections(), timeoutMs);
    },
    stop: () => clearTimeout(timer),
  };
}
