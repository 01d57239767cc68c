import { randomUUID } from 'node:crypto';
import { IncomingMessage, createServer } from 'node:http';
import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import type { ConnectionLimits } from './connection-limits.ts';
import { clientProblem, codeOf, overloaded, Problem, problemKind, rawProblem } from './problem.ts';
import { discardInput, isUnasked } from './request-body.ts';
import { requestIdOf } from './request-head.ts';

/** A request that reached no route, and the problem that it got. */
export type ConnectionFault = Readonly<{
  requestId: string;
  problem: Problem;
  /** What the parser or the server found, such as `HPE_INVALID_METHOD`. */
  reason: string;
}>;

/** What a connection counts for: an IPv4 address or an IPv6 network; undefined for what has no limit. */
type AddressOf = (remoteAddress: string) => string | undefined;

type Handle = (request: IncomingMessage, response: ServerResponse) => void;

/** The connections of a server. Each of them ends, whatever its peer does. */
export type Connections = Readonly<{
  /** Creates a server. `handle` gets the requests of each connection one after the other. */
  createServer(handle: Handle): Server;
  /** The id of a request. */
  idOf(request: IncomingMessage): string;
  /**
   * Counts bytes of a body as held until the response to its request has been sent.
   * @returns false, and counts nothing, if all requests together would hold too much
   */
  hold(request: IncomingMessage, bytes: number): boolean;
  /** Ends silent connections now, and all others after `closeTimeoutMs`. */
  startClosing(): void;
  stop(): void;
}>;

/** What the connections of a server share. */
type Shared = {
  readonly limits: ConnectionLimits;
  readonly refused: (fault: ConnectionFault) => void;
  readonly addressOf: AddressOf;
  readonly perAddress: Map<string, number>;
  /** In the order in which they became idle. */
  readonly connections: Map<Duplex, Connection>;
  /** Requests that came before the response to the request before them, whose turn it is now. */
  readonly waiting: (() => void)[];
  heldBytes: number;
  isClosing: boolean;
};

/** Node parses all requests of a packet at once; here each waits until those before it have ended. */
type Connection = {
  readonly shared: Shared;
  readonly socket: Socket;
  readonly handle: Handle;
  readonly address: string | undefined;
  /** Requests that wait for their responses. The first one is being handled. */
  readonly exchanges: Exchange[];
  /** The connection takes no more requests and ends after those that it has. */
  isLast: boolean;
  /** Since when there is no request, or since when the last response is on its way. */
  sinceMs: number;
};

/** A request and its response. */
type Exchange = {
  readonly id: string;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** The peer sends the body only after `100 Continue`. */
  readonly awaitsContinue: boolean;
  heldBytes: number;
  /** Since when the whole response waits for the peer to receive it. */
  endedAtMs?: number;
};

/** How often Node looks for requests that took too long to arrive. */
const NODE_SWEEP_MS = 1_000;
const SWEEP_MS = 500;
/** How much later than Node's own timeouts those of the sweep are. */
const GRACE_MS = 1_000;
/** Connections above the limit that can get 503 at one time. More are closed without a response. */
const REFUSED_MAX = 256;

/** `refused` is called for each request that reached no route. */
export function createConnections(
  limits: ConnectionLimits,
  refused: (fault: ConnectionFault) => void,
  addressOf: AddressOf,
): Connections {
  const connections = new Map<Duplex, Connection>();
  const shared: Shared = {
    limits,
    refused,
    addressOf,
    perAddress: new Map(),
    connections,
    waiting: [],
    heldBytes: 0,
    isClosing: false,
  };
  const destroyIf = (condition: (connection: Connection) => boolean) => {
    for (const connection of connections.values()) {
      if (condition(connection)) connection.socket.destroy();
    }
  };
  const exchangeOf = (request: IncomingMessage) => {
    const current = connections.get(request.socket)?.exchanges[0];
    return current?.request === request ? current : undefined;
  };
  const sweeper = setInterval(() => {
    const nowMs = performance.now();
    destroyIf((connection) => isOverdue(connection, nowMs));
  }, SWEEP_MS).unref();
  let cut: NodeJS.Timeout | undefined;
  return {
    createServer: (handle) => createServerOf(shared, handle),
    idOf: (request) => exchangeOf(request)?.id ?? requestIdOf(request.headers),
    hold(request, bytes) {
      const exchange = exchangeOf(request);
      if (exchange === undefined) return true;
      if (shared.heldBytes + bytes > limits.heldBytesMax) return false;
      shared.heldBytes += bytes;
      exchange.heldBytes += bytes;
      return true;
    },
    startClosing() {
      shared.isClosing = true;
      destroyIf(isSilent);
      cut = setTimeout(destroyIf, limits.closeTimeoutMs, () => true);
    },
    stop() {
      clearTimeout(cut);
      clearInterval(sweeper);
    },
  };
}

function createServerOf(shared: Shared, handle: Handle): Server {
  const { limits, connections } = shared;
  const server = createServer({
    IncomingMessage: createRequestClass(connections),
    shouldUpgradeCallback: () => true,
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionsCheckingInterval: NODE_SWEEP_MS,
    // Node's own response to a missing Host has no body.
    requireHostHeader: false,
  });
  server.setTimeout(limits.connectionTimeoutMs);
  server.maxConnections = limits.connectionsMax + REFUSED_MAX;
  const receiver =
    (awaitsContinue: boolean) => (request: IncomingMessage, response: ServerResponse) => {
      const connection = connections.get(request.socket);
      if (connection !== undefined) receive(connection, request, response, awaitsContinue);
    };
  const withConnection = (socket: Duplex, act: (connection: Connection) => void) => {
    const connection = connections.get(socket);
    if (connection === undefined) socket.destroy();
    else act(connection);
  };
  server.on('connection', (socket) => accept(shared, socket, handle));
  server.on('request', receiver(false));
  server.on('checkExpectation', receiver(false));
  server.on('checkContinue', receiver(true));
  server.on('upgrade', ({ socket }: IncomingMessage) => withConnection(socket, endUnparsed));
  server.on('connect', ({ socket }: IncomingMessage) => withConnection(socket, refuseConnect));
  server.on('clientError', (error, socket) =>
    withConnection(socket, (connection) => fail(connection, codeOf(error))),
  );
  return server;
}

/**
 * Makes the class of the server's requests. Node parses all requests of a packet, thousands of them, before
 * it sends the first response. It stops only behind a request that is an upgrade. So the first request that
 * its connection does not take counts as one, whatever its headers say, and the others do not.
 */
function createRequestClass(connections: ReadonlyMap<Duplex, Connection>) {
  return class extends IncomingMessage {
    readonly isTooMany = isFull(connections.get(this.socket));

    get upgrade(): boolean {
      return this.isTooMany || this.method === 'CONNECT';
    }

    /** Ignores what Node assigns: its reading of the headers, then the result of the callback. */
    set upgrade(_: boolean | null) {}
  };
}

function isFull(connection: Connection | undefined): boolean {
  if (connection === undefined || connection.isLast) return true;
  return connection.exchanges.length >= connection.shared.limits.pipelinedMax;
}

function accept(shared: Shared, socket: Socket, handle: Handle): void {
  const { connections, limits, perAddress } = shared;
  const address = shared.addressOf(socket.remoteAddress ?? '');
  const isAboveShare = (perAddress.get(address ?? '') ?? 0) >= limits.perAddressMax;
  const isAboveLimit = isAboveShare || connections.size >= limits.connectionsMax;
  const canBeReplaced = (other: Connection) =>
    isIdle(other) && (!isAboveShare || other.address === address);
  const replaced = isAboveLimit ? connections.values().find(canBeReplaced) : undefined;
  const sinceMs = performance.now();
  const connection = { shared, socket, handle, address, exchanges: [], isLast: false, sinceMs };
  connections.set(socket, connection);
  count(perAddress, address, 1);
  socket.once('close', () => {
    connections.delete(socket);
    count(perAddress, address, -1);
  });
  // Node calls this after a response with `connection: close`. It would reset a peer that still sends.
  socket.destroySoon = () => end(connection);
  if (replaced !== undefined) {
    connections.delete(replaced.socket);
    replaced.socket.destroy();
  } else if (isAboveLimit) {
    const from = isAboveShare ? ' from this address' : '';
    refuse(connection, overloaded(`There are too many connections${from}.`), 'CONNECTIONS_MAX');
  }
}

function count(perAddress: Map<string, number>, address: string | undefined, more: 1 | -1): void {
  if (address === undefined) return;
  const total = (perAddress.get(address) ?? 0) + more;
  if (total === 0) perAddress.delete(address);
  else perAddress.set(address, total);
}

function isIdle({ exchanges, isLast }: Connection): boolean {
  return exchanges.length === 0 && !isLast;
}

function receive(
  connection: Connection,
  request: IncomingMessage,
  response: ServerResponse,
  awaitsContinue: boolean,
): void {
  const id = requestIdOf(request.headers);
  const exchange = { id, request, response, awaitsContinue, heldBytes: 0 };
  connection.exchanges.push(exchange);
  response.once('close', () => responded(connection));
  if (connection.exchanges.length === 1) begin(connection, exchange);
}

function begin(connection: Connection, exchange: Exchange): void {
  const { isLast, exchanges, handle, shared } = connection;
  const { request, response, awaitsContinue } = exchange;
  // The connection has ended meanwhile.
  if (exchanges[0] !== exchange) return;
  if (isLast && exchanges.length === 1) closeAfter(response);
  // A request that broke off while it waited has its response already.
  if (response.writableEnded) return;
  if (awaitsContinue && !isUnasked(request, shared.limits.bodyBytesMax)) response.writeContinue();
  handle(request, response);
}

function responded(connection: Connection): void {
  const { socket, exchanges, shared } = connection;
  const exchange = exchanges.shift();
  if (exchange === undefined) return;
  shared.heldBytes -= exchange.heldBytes;
  const [next] = exchanges;
  if (socket.destroyed) exchanges.length = 0;
  else if (next !== undefined) waitForTurn(connection, next);
  else if (connection.isLast) end(connection);
  else {
    connection.sinceMs = performance.now();
    shared.connections.delete(socket);
    shared.connections.set(socket, connection);
  }
}

/** Of all requests that came before it was their turn, one begins in each turn of the event loop. */
function waitForTurn(connection: Connection, exchange: Exchange): void {
  const { waiting } = connection.shared;
  waiting.push(() => begin(connection, exchange));
  if (waiting.length === 1) setImmediate(takeTurn, waiting);
}

function takeTurn(waiting: (() => void)[]): void {
  waiting[0]?.();
  waiting.shift();
  if (waiting.length > 0) setImmediate(takeTurn, waiting);
}

/** Ends a connection that is no longer parsed, after the requests that it has. */
function endUnparsed(connection: Connection): void {
  const { socket, exchanges } = connection;
  connection.isLast = true;
  // Node has removed its own listener.
  socket.on('error', () => socket.destroy());
  const last = exchanges.at(-1);
  if (last !== undefined) closeAfter(last.response);
  else if (!socket.writableEnded) end(connection);
}

function refuseConnect(connection: Connection): void {
  if (connection.exchanges.length === 0)
    refuse(connection, new Problem(problemKind('not_implemented')), 'CONNECT');
  endUnparsed(connection);
}

/**
 * Responds to what is not HTTP or took too long to arrive, and ends the connection. A whole request before
 * it gets its own response, as if nothing had come after it. `reason` is the code of Node's error.
 */
function fail(connection: Connection, reason: string): void {
  const { socket, exchanges, shared } = connection;
  const problem = clientProblem(reason);
  const latest = exchanges.at(-1);
  if (!socket.writable || reason === 'ECONNRESET' || isCutShort(exchanges, reason)) {
    socket.destroy();
  } else if (latest === undefined) {
    refuse(connection, problem, reason);
  } else if (latest.request.complete) {
    takeNoMore(connection);
    closeAfter(latest.response);
    shared.refused({ requestId: randomUUID(), problem, reason });
  } else {
    takeNoMore(connection);
    const { id, response } = latest;
    if (response.headersSent) return;
    // A request that has begun is in the log already.
    if (exchanges.length > 1) shared.refused({ requestId: id, problem, reason });
    const { headers, body } = rawProblem(problem, id);
    response.writeHead(problem.status, headers).end(body);
  }
}

/** Sends the problem on a connection that has no request in progress, and ends the connection. */
function refuse(connection: Connection, problem: Problem, reason: string): void {
  const requestId = randomUUID();
  connection.shared.refused({ requestId, problem, reason });
  connection.socket.write(rawProblem(problem, requestId).text);
  end(connection);
}

/** Ends the connection once everything was sent. The peer has a moment to receive it. */
function end(connection: Connection): void {
  const { socket, exchanges, shared } = connection;
  connection.isLast = true;
  connection.sinceMs = performance.now();
  for (const { heldBytes } of exchanges.splice(0)) shared.heldBytes -= heldBytes;
  socket.end();
  if (shared.isClosing) socket.once('finish', () => socket.destroy());
  else discardInput(socket);
}

function takeNoMore(connection: Connection): void {
  connection.isLast = true;
  // The parser goes on to the end of the packet, and resumes the socket after each request in it.
  process.nextTick(() => connection.socket.pause());
}

/** Makes Node end the connection after this response. */
function closeAfter(response: ServerResponse): void {
  if (!response.headersSent) response.setHeader('connection', 'close');
}

/** The caller left in the middle of its body. */
function isCutShort(exchanges: readonly Exchange[], reason: string): boolean {
  const [only, ...others] = exchanges;
  return (
    reason === 'HPE_INVALID_EOF_STATE' && others.length === 0 && only?.request.complete === false
  );
}

/** Nothing is in progress: the peer never sent a byte, or the last response has been sent. */
function isSilent({ socket, isLast }: Connection): boolean {
  return socket.bytesRead === 0 || (isLast && socket.writableFinished);
}

/** The peer keeps the connection longer than it may. */
function isOverdue(
  { socket, exchanges, isLast, sinceMs, shared }: Connection,
  nowMs: number,
): boolean {
  const { limits } = shared;
  const [first] = exchanges;
  if (first !== undefined) {
    if (!first.response.writableEnded) return false;
    first.endedAtMs ??= nowMs;
    return nowMs - first.endedAtMs > limits.responseTimeoutMs;
  }
  const lastedMs = nowMs - sinceMs;
  if (isLast) {
    return lastedMs > (socket.writableFinished ? limits.lingerTimeoutMs : limits.responseTimeoutMs);
  }
  // Node's timeouts start again with each empty line that a peer sends between two requests.
  return lastedMs > limits.keepAliveTimeoutMs + limits.headersTimeoutMs + GRACE_MS;
}
