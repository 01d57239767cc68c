import { Agent as HttpAgent, request as requestHttp } from 'node:http';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps } from 'node:https';
import { CallNotMade } from '#src/sagas/saga-call.ts';

const RESPONSE_BYTES_MAX = 64 * 1024;
const RETRY_AFTER_SECONDS_MAX = 3_600;
const LIMIT_WAITERS_MAX = 10_000;
const LIMIT_WAIT_MS_MAX = 5_000;
/** The characters that RFC 6750 allows in a bearer token. Others could end the header. */
const API_KEY = /^[A-Za-z0-9._~+/=-]+$/;
const utf8 = new TextDecoder('utf-8', { fatal: true });

/** Where a provider is, and how many calls to it may run at once. */
export type ProviderConnection = Readonly<{
  url: string;
  /** Sent as a bearer token. It appears in no error, reason or log. */
  apiKey?: string;
  /** For one call, from sending it to the last byte of the response. */
  timeoutMs: number;
  callsMax: number;
}>;

/** One HTTP request of the contract in docs/providers.md. */
export type ProviderRequest = Readonly<{
  method: 'GET' | 'POST';
  path: string;
  key: string;
  body?: unknown;
  signal?: AbortSignal | undefined;
}>;

/** A response that could be read, proof that nothing was sent, or neither. */
export type ProviderResponse =
  | Readonly<{ kind: 'response'; status: number; body: unknown; retryAfterMs?: number }>
  | Readonly<{ kind: 'not_sent'; reason: string }>
  | Readonly<{ kind: 'lost'; reason: string; retryAfterMs?: number }>;

/**
 * Sends one request. Errors of the connection are part of the result.
 * @throws CallNotMade if too many calls are under way for too long
 */
export type SendToProvider = (request: ProviderRequest) => Promise<ProviderResponse>;

/**
 * Speaks HTTP with one provider over kept connections. It follows no redirects and sends nothing twice: the
 * caller decides whether to try again.
 * @throws Error if the URL or the key could not be used for any call
 */
export function createProviderClient(connection: ProviderConnection): SendToProvider {
  const base = baseUrl(connection.url);
  const shared = { accept: 'application/json', ...authorization(connection.apiKey) };
  const secure = base.startsWith('https:');
  const agent = secure ? new HttpsAgent({ keepAlive: true }) : new HttpAgent({ keepAlive: true });
  const open = secure ? requestHttps : requestHttp;
  const limit = createCallLimit({
    callsMax: connection.callsMax,
    waitersMax: LIMIT_WAITERS_MAX,
    waitMsMax: LIMIT_WAIT_MS_MAX,
  });

  const prepare = ({ method, path, key, body }: ProviderRequest) => {
    const text = body === undefined ? '' : JSON.stringify(body);
    const headers = body === undefined ? shared : { ...shared, ...bodyHeaders(text, key) };
    try {
      return { request: open(base + path, { agent, method, headers }), text };
    } catch {
      return undefined;
    }
  };

  return async (call) => {
    const { signal } = call;
    if (!(await limit.enter(signal))) throw new CallNotMade();
    try {
      const prepared = prepare(call);
      return prepared
        ? await exchange({ ...prepared, timeoutMs: connection.timeoutMs, signal })
        : { kind: 'not_sent', reason: 'the key has a character that HTTP cannot carry' };
    } finally {
      limit.leave();
    }
  };
}

function baseUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const plain = url && !url.username && !url.password && !url.search && !url.hash;
  if (!plain || !/^https?:$/.test(url.protocol))
    throw new Error('a provider URL is http or https, without credentials, query or fragment');
  return url.href.replace(/\/+$/, '');
}

function authorization(apiKey: string | undefined): { authorization?: string } {
  if (apiKey === undefined) return {};
  if (!API_KEY.test(apiKey)) throw new Error('a provider API key has a character it may not have');
  return { authorization: `Bearer ${apiKey}` };
}

function bodyHeaders(text: string, key: string) {
  return {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'idempotency-key': key,
  };
}

type Exchange = Readonly<{
  request: ClientRequest;
  text: string;
  timeoutMs: number;
  signal: AbortSignal | undefined;
}>;

/** Sends a request and waits until the response is there, the time is over, or `signal` aborts. */
async function exchange({ request, text, timeoutMs, signal }: Exchange): Promise<ProviderResponse> {
  const { promise, resolve } = Promise.withResolvers<ProviderResponse>();
  const giveUp = (reason: string) => {
    resolve({ kind: isUnsent(request) ? 'not_sent' : 'lost', reason });
    request.destroy();
  };
  const leave = () => giveUp('stopped waiting');
  // A busy process may not have read a response that is there already. It does so before the timeout counts.
  let lastLook: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    lastLook = setImmediate(() => giveUp(`no response in ${timeoutMs} ms`));
  }, timeoutMs);
  signal?.addEventListener('abort', leave, { once: true });

  let hasResponse = false;
  request.on('response', (response) => {
    hasResponse = true;
    readResponse(response).then(resolve, (error: unknown) => resolve(lost(error)));
  });
  request.on('error', (error) => resolve(neverConnected(error) ? notSent(error) : lost(error)));
  request.on('close', () => hasResponse || resolve(lost(undefined)));
  request.end(text);
  if (signal?.aborted) leave();
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    clearImmediate(lastLook);
    signal?.removeEventListener('abort', leave);
  }
}

async function readResponse(response: IncomingMessage): Promise<ProviderResponse> {
  const { statusCode: status = 0, headers } = response;
  const again = retryAfter(headers['retry-after']);
  const bytes = await readBytes(response);
  if (!bytes) return { kind: 'lost', reason: `response ${status} is too large`, ...again };
  if (bytes.length === 0) return { kind: 'lost', reason: `response ${status} is empty`, ...again };
  try {
    const body: unknown = JSON.parse(utf8.decode(bytes));
    return { kind: 'response', status, body, ...again };
  } catch {
    return { kind: 'lost', reason: `response ${status} is not JSON`, ...again };
  }
}

/** The body, or undefined if it is too large. Leaving the loop closes the connection. */
async function readBytes(response: AsyncIterable<Buffer>): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response) {
    size += chunk.length;
    if (size > RESPONSE_BYTES_MAX) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function retryAfter(header: string | undefined): { retryAfterMs?: number } {
  if (header === undefined || !/^\d{1,9}$/.test(header)) return {};
  return { retryAfterMs: Math.min(Number(header), RETRY_AFTER_SECONDS_MAX) * 1_000 };
}

/** Without a connection not one byte of the request has been sent. */
function isUnsent({ socket }: ClientRequest): boolean {
  return !socket || socket.connecting;
}

/** Whether looking up the name or connecting failed. This proves that nothing was sent. */
function neverConnected(error: unknown): boolean {
  if (error instanceof AggregateError)
    return error.errors.length > 0 && error.errors.every((each) => neverConnected(each));
  if (!(error instanceof Error) || !('syscall' in error)) return false;
  return error.syscall === 'connect' || error.syscall === 'getaddrinfo';
}

const notSent = (error: unknown): ProviderResponse => ({
  kind: 'not_sent',
  reason: `no connection${codeOf(error)}`,
});

const lost = (error: unknown): ProviderResponse => ({
  kind: 'lost',
  reason: `connection lost${codeOf(error)}`,
});

/** Only the code of an error is passed on, because its message may quote what was sent. */
function codeOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' && /^\w{1,40}$/.test(code) ? ` (${code})` : '';
}

/** How many calls may run at once, how many may wait, and how long. */
export type CallLimitBounds = Readonly<{
  callsMax: number;
  waitersMax: number;
  waitMsMax: number;
}>;

/** Bounds the calls to one provider, so that a slow one cannot take up the whole service. First come, first served. */
export function createCallLimit({ callsMax, waitersMax, waitMsMax }: CallLimitBounds) {
  const waiting = new Set<(entered: boolean) => void>();
  let underWay = 0;
  return {
    /** True once the call may run, and then `leave` must follow. False after the wait, or if `signal` aborts. */
    enter: async (signal?: AbortSignal): Promise<boolean> => {
      if (signal?.aborted) return false;
      if (underWay < callsMax) {
        underWay += 1;
        return true;
      }
      if (waiting.size >= waitersMax) return false;
      const { promise, resolve } = Promise.withResolvers<boolean>();
      const giveUp = () => {
        waiting.delete(resolve);
        resolve(false);
      };
      const timer = setTimeout(giveUp, waitMsMax);
      signal?.addEventListener('abort', giveUp, { once: true });
      waiting.add(resolve);
      const entered = await promise;
      clearTimeout(timer);
      signal?.removeEventListener('abort', giveUp);
      return entered;
    },
    leave: () => {
      const [next] = waiting;
      if (!next) {
        underWay -= 1;
        return;
      }
      waiting.delete(next);
      next(true);
    },
  };
}
