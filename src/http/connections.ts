import { randomUUID } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

import {
  endAfterAll,
  fail,
  isFull,
  isOverdue,
  isSilent,
  openConnection,
  receive,
  refuse,
} from './connection.ts';
import type {
  Connection,
  ConnectionEvents,
  ConnectionFault,
  ConnectionTimes,
  Handle,
} from './connection.ts';
import { isUnasked } from './discard.ts';
import { connectRefused, overloaded } from './server-errors.ts';

/** What peers may hold of one process, all together and on each connection. */
export type ConnectionLimits = ConnectionTimes &
  Readonly<{
    /** Past it the connection that has been idle longest is closed, or else the new one hears 503. */
    connectionsMax: number;
    /** Requests of one connection that are not answered yet; with more, it is closed after these. */
    pipelinedMax: number;
    bodyBytesMax: number;
    /** Bodies of all requests that are not answered yet, together. */
    heldBytesMax: number;
    /** How long a closing server waits for requests under way before it cuts their connections. */
    closeTimeoutMs: number;
  }>;

/** All connections of one server. Whatever a peer does or leaves undone, each of them ends. */
export type Connections = Readonly<{
  /** Hands the requests of `server` to `handle`, on each connection one after the other. */
  serve(server: Server, handle: Handle): void;
  /** For `breakOff`: the connection of this request has as many as it may, and is parsed no further. */
  isTooMany(request: IncomingMessage): boolean;
  /** To be called for the server's `clientError` event. */
  clientError(error: Error, socket: Socket): void;
  /** The id of a request that is being handled; a new one for a request that came without a socket. */
  idOf(request: IncomingMessage): string;
  /**
   * Counts bytes of a body as held until its request has been answered.
   * @returns false, and counts nothing, when all requests together would hold too much
   */
  hold(request: IncomingMessage, bytes: number): boolean;
  /** The server closes: silent connections end now, and what is left after `closeTimeoutMs`. */
  startClosing(): void;
  stop(): void;
}>;

const SWEEP_MS = 500;
/** Connections past the limit that can hear 503 at one time; more are closed without a word. */
const REFUSED_MAX = 256;

/** Makes the keeper of a server's connections; `refused` hears of requests that reached no route. */
export function createConnections(
  limits: ConnectionLimits,
  refused: (fault: ConnectionFault) => void,
): Connections {
  const book = createBook(limits, refused);
  let cut: NodeJS.Timeout | undefined;
  const sweeper = setInterval(() => {
    const nowMs = performance.now();
    for (const connection of book.all()) {
      if (isOverdue(connection, nowMs)) connection.socket.destroy();
    }
  }, SWEEP_MS).unref();

  return {
    serve: (server, handle) => serve(server, handle, book, limits),
    isTooMany(request) {
      const connection = book.find(request.socket);
      return connection === undefined || isFull(connection);
    },
    clientError(error, socket) {
      const connection = book.find(socket);
      if (connection === undefined) socket.destroy();
      else fail(connection, error);
    },
    idOf: (request) => book.exchangeOf(request)?.id ?? randomUUID(),
    hold: (request, bytes) => book.hold(request, bytes),
    startClosing() {
      book.close();
      for (const connection of book.all()) {
        if (isSilent(connection)) connection.socket.destroy();
      }
      cut = setTimeout(() => {
        for (const { socket } of book.all()) socket.destroy();
      }, limits.closeTimeoutMs);
    },
    stop() {
      clearTimeout(cut);
      clearInterval(sweeper);
    },
  };
}

/** Listens to all that Node tells of the server's connections and requests. */
function serve(
  server: Server,
  handle: Handle,
  book: ReturnType<typeof createBook>,
  limits: ConnectionLimits,
): void {
  server.maxConnections = limits.connectionsMax + REFUSED_MAX;
  server.on('connection', (socket) => book.accept(socket));
  server.on('request', book.receiver(handle));
  server.on('checkExpectation', book.receiver(handle));
  const askForBody = (request: IncomingMessage, response: ServerResponse) => {
    if (!isUnasked(request, limits.bodyBytesMax)) response.writeContinue();
    handle(request, response);
  };
  server.on('checkContinue', book.receiver(askForBody));
  server.on('upgrade', ({ socket }: IncomingMessage) => {
    const connection = book.find(socket);
    if (connection === undefined) socket.destroy();
    else endAfterAll(connection);
  });
  server.on('connect', ({ socket }: IncomingMessage) => {
    const connection = book.find(socket);
    // Node has taken its own listeners away.
    socket.on('error', () => socket.destroy());
    if (connection === undefined) socket.destroy();
    else if (connection.exchanges.length > 0) endAfterAll(connection);
    else refuse(connection, connectRefused(), 'CONNECT');
  });
}

/** Which connections there are, which of them are idle, and how much they hold together. */
function createBook(limits: ConnectionLimits, refused: (fault: ConnectionFault) => void) {
  const all = new Map<Socket, Connection>();
  /** The one that has been idle for longest first. */
  const idle = new Set<Connection>();
  let heldBytes = 0;
  let isClosing = false;
  const events: ConnectionEvents = {
    refused,
    idle: (connection) => void idle.add(connection),
    busy: (connection) => void idle.delete(connection),
    released: (bytes) => {
      heldBytes -= bytes;
    },
    isClosing: () => isClosing,
  };
  const forget = (connection: Connection) => {
    all.delete(connection.socket);
    idle.delete(connection);
  };
  const exchangeOf = (request: IncomingMessage) => {
    const current = all.get(request.socket)?.exchanges[0];
    return current?.request === request ? current : undefined;
  };
  return {
    all: () => all.values(),
    find: (socket: Socket) => all.get(socket),
    exchangeOf,
    accept(socket: Socket) {
      const isFull = all.size >= limits.connectionsMax;
      const [longestIdle] = idle;
      const connection = openConnection(socket, limits, events);
      all.set(socket, connection);
      idle.add(connection);
      socket.once('close', () => forget(connection));
      if (!isFull) return;
      if (longestIdle === undefined) {
        refuse(connection, overloaded('There are too many connections.'), 'CONNECTIONS_MAX');
      } else {
        forget(longestIdle);
        longestIdle.socket.destroy();
      }
    },
    receiver: (handle: Handle) => (request: IncomingMessage, response: ServerResponse) => {
      const connection = all.get(request.socket);
      if (connection !== undefined) receive(connection, request, response, handle);
    },
    hold(request: IncomingMessage, bytes: number) {
      const exchange = exchangeOf(request);
      if (exchange === undefined) return true;
      if (heldBytes + bytes > limits.heldBytesMax) return false;
      heldBytes += bytes;
      exchange.heldBytes += bytes;
      return true;
    },
    close() {
      isClosing = true;
    },
  };
}
