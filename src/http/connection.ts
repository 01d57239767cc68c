import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

import { discardInput } from './discard.ts';
import type { Problem } from './problem.ts';
import { clientProblem, codeOf, rawProblem } from './server-errors.ts';

export type Handle = (request: IncomingMessage, response: ServerResponse) => void;

/** A request that reached no route, and what its caller was told. */
export type ConnectionFault = Readonly<{
  requestId: string;
  problem: Problem;
  /** What the parser or the server found, such as `HPE_INVALID_METHOD`. */
  reason: string;
}>;

export type ConnectionTimes = Readonly<{
  headersTimeoutMs: number;
  /** For a connection between two requests. */
  keepAliveTimeoutMs: number;
  /** For the peer to take a response. */
  responseTimeoutMs: number;
  /** For the peer to close, once the last response has been sent. */
  lingerTimeoutMs: number;
}>;

/** One request and its response. */
export type Exchange = {
  readonly id: string;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly handle: Handle;
  /** Of its body, until it has been answered. */
  heldBytes: number;
  /** Since when the response waits for the peer to take it. */
  endedAtMs?: number;
};

/** What a connection tells its keeper. */
export type ConnectionEvents = Readonly<{
  /** A request was refused before it reached a route. */
  refused(fault: ConnectionFault): void;
  /** The last request under way has been answered, and another may come. */
  idle(connection: Connection): void;
  busy(connection: Connection): void;
  released(bytes: number): void;
  isClosing(): boolean;
}>;

/**
 * One connection. Node parses every request of a packet at once; here they wait for their turn, so that
 * a peer has one request under way however many it sends.
 */
export type Connection = {
  readonly socket: Socket;
  readonly limits: ConnectionTimes & Readonly<{ pipelinedMax: number }>;
  readonly events: ConnectionEvents;
  /** Requests that are not answered yet. The first is being handled. */
  readonly exchanges: Exchange[];
  /** The connection ends after the requests that it has; no other is taken. */
  isLast: boolean;
  /** Since when there is no request, or since when the last response is on its way. */
  sinceMs: number;
};

/** How much later than Node's own clocks the one here goes off. */
const GRACE_MS = 1_000;

export function openConnection(
  socket: Socket,
  limits: Connection['limits'],
  events: ConnectionEvents,
): Connection {
  const sinceMs = performance.now();
  const connection: Connection = { socket, limits, events, exchanges: [], isLast: false, sinceMs };
  // Node calls this after a response with `connection: close`. It would reset a peer that still sends.
  socket.destroySoon = () => end(connection);
  return connection;
}

/** Takes a request, unless the connection is about to end: nobody would hear of what it did. */
export function receive(
  connection: Connection,
  request: IncomingMessage,
  response: ServerResponse,
  handle: Handle,
): void {
  if (isFull(connection)) {
    takeNoMore(connection);
    return;
  }
  const { exchanges, events } = connection;
  const exchange = { id: randomUUID(), request, response, handle, heldBytes: 0 };
  exchanges.push(exchange);
  response.once('close', () => answered(connection));
  if (exchanges.length > 1) return;
  events.busy(connection);
  begin(connection, exchange);
}

/** No other request may be taken: the connection is about to end, or has as many as it may. */
export function isFull({ exchanges, isLast, limits }: Connection): boolean {
  return isLast || exchanges.length >= limits.pipelinedMax;
}

/** Takes a connection that is no longer parsed; it ends after the requests that it has. */
export function endAfterAll(connection: Connection): void {
  const { socket, exchanges } = connection;
  connection.isLast = true;
  // Node has taken its own listeners away.
  socket.on('error', () => socket.destroy());
  const last = exchanges.at(-1);
  if (last !== undefined) closeAfter(last.response);
  else if (!socket.writableEnded) end(connection);
}

/**
 * Answers what is no HTTP or took too long to arrive, and ends the connection. A request that came whole
 * before it is answered first, as if nothing had come after it.
 */
export function fail(connection: Connection, error: unknown): void {
  const { socket, exchanges, events } = connection;
  const reason = codeOf(error);
  const problem = clientProblem(reason);
  const latest = exchanges.at(-1);
  if (!socket.writable || reason === 'ECONNRESET' || isCutShort(exchanges, reason)) {
    socket.destroy();
  } else if (latest === undefined) {
    refuse(connection, problem, reason);
  } else if (latest.request.complete) {
    takeNoMore(connection);
    closeAfter(latest.response);
    events.refused({ requestId: randomUUID(), problem, reason });
  } else {
    takeNoMore(connection);
    const { id, response } = latest;
    if (response.headersSent) return;
    // The report of the request tells of it, unless it has never begun.
    if (exchanges.length > 1) events.refused({ requestId: id, problem, reason });
    const { headers, body } = rawProblem(problem, id);
    response.writeHead(problem.status, headers).end(body);
  }
}

/** Answers a connection that has no request under way, and ends it. */
export function refuse(connection: Connection, problem: Problem, reason: string): void {
  const requestId = randomUUID();
  connection.events.busy(connection);
  connection.events.refused({ requestId, problem, reason });
  connection.socket.write(rawProblem(problem, requestId).text);
  end(connection);
}

/** Nothing is under way on it: it never sent a byte, or has had its last response. */
export function isSilent({ socket, isLast }: Connection): boolean {
  return socket.bytesRead === 0 || (isLast && socket.writableFinished);
}

/** The peer keeps the connection for longer than it may. */
export function isOverdue(connection: Connection, nowMs: number): boolean {
  const { socket, exchanges, isLast, sinceMs, limits } = connection;
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
  // Node's clocks start anew with each empty line that a peer sends between two requests.
  return lastedMs > limits.keepAliveTimeoutMs + limits.headersTimeoutMs + GRACE_MS;
}

function begin({ isLast, exchanges }: Connection, { request, response, handle }: Exchange): void {
  if (isLast && exchanges.length === 1) closeAfter(response);
  // One that broke off while it waited has its response already.
  if (!response.writableEnded) handle(request, response);
}

function answered(connection: Connection): void {
  const { socket, exchanges, events } = connection;
  const exchange = exchanges.shift();
  if (exchange === undefined) return;
  events.released(exchange.heldBytes);
  const [next] = exchanges;
  if (socket.destroyed) {
    exchanges.length = 0;
  } else if (next !== undefined) {
    begin(connection, next);
  } else if (connection.isLast) {
    end(connection);
  } else {
    connection.sinceMs = performance.now();
    events.idle(connection);
  }
}

/** Ends the connection once what was written has been sent; the peer has a moment to take it. */
function end(connection: Connection): void {
  const { socket, exchanges, events } = connection;
  connection.isLast = true;
  connection.sinceMs = performance.now();
  for (const { heldBytes } of exchanges.splice(0)) events.released(heldBytes);
  socket.end();
  if (events.isClosing()) socket.once('finish', () => socket.destroy());
  else discardInput(socket);
}

function takeNoMore(connection: Connection): void {
  connection.isLast = true;
  // The parser goes on to the end of the packet, and reads on after each request in it.
  process.nextTick(() => connection.socket.pause());
}

/** Node ends the connection after this response, and says so in it. */
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
