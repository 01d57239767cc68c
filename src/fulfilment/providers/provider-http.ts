import { createCallLimit } from './call-limit.ts';

const ANSWER_BYTES_MAX = 64 * 1024;
const RETRY_AFTER_SECONDS_MAX = 3_600;
const LIMIT_WAITERS_MAX = 10_000;
const LIMIT_WAIT_MS_MAX = 5_000;
/** What RFC 6750 lets a bearer token be made of; anything else could end the header. */
const API_KEY = /^[A-Za-z0-9._~+/=-]+$/;

/** Where a provider is and how much of it may be used at once. */
export type ProviderConnection = Readonly<{
  url: string;
  /** Sent as a bearer token; no error, reason or log ever holds it. */
  apiKey?: string;
  /** For one call, from its sending to the last byte of the answer. */
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

/** What came back: an answer that could be read, proof that nothing was sent, or neither. */
export type ProviderAnswer =
  | Readonly<{ kind: 'answer'; status: number; body: unknown; retryAfterMs?: number }>
  | Readonly<{ kind: 'not_sent'; reason: string }>
  | Readonly<{ kind: 'lost'; reason: string; retryAfterMs?: number }>;

/** Sends one request and never throws, whatever comes back. */
export type SendToProvider = (request: ProviderRequest) => Promise<ProviderAnswer>;

/**
 * Speaks HTTP with one provider over kept connections. Redirects are not followed and nothing is
 * sent twice: whether to ask again is the caller's to decide.
 * @throws Error if the URL or the key could not be used for any call
 */
export function createProviderHttp(connection: ProviderConnection): SendToProvider {
  const base = baseUrl(connection.url);
  const headers = {
    accept: 'application/json',
    'accept-encoding': 'identity',
    ...authorization(connection.apiKey),
  };
  const limit = createCallLimit({
    callsMax: connection.callsMax,
    waitersMax: LIMIT_WAITERS_MAX,
    waitMsMax: LIMIT_WAIT_MS_MAX,
  });

  return async ({ method, path, key, body, signal }) => {
    if (!(await limit.enter(signal))) return { kind: 'not_sent', reason: 'no place for the call' };
    const deadline = startDeadline(connection.timeoutMs, signal);
    try {
      const response = await fetch(base + path, {
        method,
        redirect: 'manual',
        signal: deadline.signal,
        ...(body === undefined
          ? { headers }
          : {
              headers: { ...headers, 'content-type': 'application/json', 'idempotency-key': key },
              body: JSON.stringify(body),
            }),
      });
      return await readAnswer(response);
    } catch (error) {
      return deadline.signal.aborted ? gaveUp(connection, signal) : failed(error);
    } finally {
      deadline.end();
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

/** A signal that fires after the time or with `outer`. `AbortSignal.any` would hold on to both. */
function startDeadline(timeoutMs: number, outer: AbortSignal | undefined) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  const timer = setTimeout(abort, timeoutMs);
  outer?.addEventListener('abort', abort, { once: true });
  if (outer?.aborted) abort();
  const end = () => {
    clearTimeout(timer);
    outer?.removeEventListener('abort', abort);
  };
  return { signal: controller.signal, end };
}

async function readAnswer(response: Response): Promise<ProviderAnswer> {
  const { status } = response;
  const again = retryAfter(response.headers.get('retry-after'));
  const bytes = await readBytes(response);
  if (!bytes) return { kind: 'lost', reason: `answer ${status} is too large`, ...again };
  if (bytes.length === 0) return { kind: 'lost', reason: `answer ${status} is empty`, ...again };
  try {
    const body: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    return { kind: 'answer', status, body, ...again };
  } catch {
    return { kind: 'lost', reason: `answer ${status} is not JSON`, ...again };
  }
}

/** The body, or nothing where it is too large; leaving the loop closes the connection. */
async function readBytes(response: Response): Promise<Buffer | undefined> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > ANSWER_BYTES_MAX) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function retryAfter(header: string | null): { retryAfterMs?: number } {
  if (header === null || !/^\d{1,9}$/.test(header)) return {};
  return { retryAfterMs: Math.min(Number(header), RETRY_AFTER_SECONDS_MAX) * 1_000 };
}

function gaveUp(connection: ProviderConnection, outer: AbortSignal | undefined): ProviderAnswer {
  const reason = outer?.aborted ? 'stopped waiting' : `no answer in ${connection.timeoutMs} ms`;
  return { kind: 'lost', reason };
}

/**
 * Only a failure to resolve or to connect proves that nothing was sent. Messages are not passed
 * on: they may quote a header.
 */
function failed(error: unknown): ProviderAnswer {
  const cause = error instanceof Error ? error.cause : undefined;
  if (neverConnected(cause)) return { kind: 'not_sent', reason: `no connection${codeOf(cause)}` };
  return { kind: 'lost', reason: `connection lost${codeOf(cause)}` };
}

function neverConnected(cause: unknown): boolean {
  if (!(cause instanceof Error)) return false;
  if (cause instanceof AggregateError)
    return cause.errors.length > 0 && cause.errors.every((each) => neverConnected(each));
  if ('syscall' in cause) return cause.syscall === 'connect' || cause.syscall === 'getaddrinfo';
  return 'code' in cause && cause.code === 'UND_ERR_CONNECT_TIMEOUT';
}

function codeOf(cause: unknown): string {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  return typeof code === 'string' && /^\w{1,40}$/.test(code) ? ` (${code})` : '';
}
