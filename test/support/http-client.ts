import { Agent, request as httpRequest } from 'node:http';
import type { IncomingHttpHeaders } from 'node:http';
import { connect } from 'node:net';

/** Far above every timeout of the service. A call that takes longer hangs. */
const HANG_MS = 120_000;

/** A response as it arrived. */
export type HttpResponse = Readonly<{ status: number; headers: IncomingHttpHeaders; text: string }>;

/** Parts of a request. `body` is sent as JSON, `rawBody` as it is. */
export type RequestOptions = Readonly<{
  body?: unknown;
  rawBody?: string | Buffer;
  headers?: Readonly<Record<string, string>>;
  /** Replaces `headers`: names and values in turn, so that a header can be sent twice. */
  rawHeaders?: readonly string[];
  signal?: AbortSignal;
}>;

/** Calls one server over keep-alive connections. */
export type HttpClient = Readonly<{
  request(method: string, path: string, options?: RequestOptions): Promise<HttpResponse>;
  close(): void;
}>;

/**
 * Creates a client of the server at `url`, which sends `common` headers with each request. A request fails if the
 * connection breaks or no response comes.
 */
export function createHttpClient(
  url: string,
  common: Readonly<Record<string, string>> = {},
): HttpClient {
  const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
  const { hostname, port } = new URL(url);
  return {
    request: (method, path, options = {}) =>
      new Promise((resolve, reject) => {
        const { body, signal } = options;
        const payload = options.rawBody ?? (body === undefined ? undefined : JSON.stringify(body));
        const call = httpRequest(
          {
            agent,
            hostname,
            port,
            path,
            method,
            headers: headersOf({ ...options, headers: { ...common, ...options.headers } }, payload),
            ...(signal && { signal }),
          },
          (response) => {
            const chunks: Buffer[] = [];
            response.on('data', (chunk: Buffer) => chunks.push(chunk));
            response.on('error', reject);
            response.on('end', () =>
              resolve({
                status: response.statusCode ?? 0,
                headers: response.headers,
                text: Buffer.concat(chunks).toString(),
              }),
            );
          },
        );
        call.setTimeout(HANG_MS, () =>
          call.destroy(new Error(`${method} ${path}: silent for ${HANG_MS} ms`)),
        );
        call.on('error', reject);
        call.end(payload);
      }),
    close: () => agent.destroy(),
  };
}

function headersOf(
  { headers, rawHeaders }: RequestOptions,
  payload: string | Buffer | undefined,
): Record<string, string | number> | string[] {
  if (rawHeaders !== undefined) return [...rawHeaders];
  return {
    ...(payload !== undefined && {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(payload),
    }),
    ...headers,
  };
}

/**
 * Sends any bytes on a connection of their own and reads until the server closes it. It stops writing when the
 * response begins, as a careful client does.
 */
export function exchangeRaw(url: string, bytes: string | Buffer): Promise<HttpResponse> {
  const { hostname, port } = new URL(url);
  const left = Buffer.from(bytes);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    const chunks: Buffer[] = [];
    let written = 0;
    const write = () => {
      while (chunks.length === 0 && written < left.length) {
        const part = left.subarray(written, (written += 16_384));
        if (!socket.write(part)) return;
      }
    };
    socket.setTimeout(HANG_MS, () => socket.destroy(new Error(`silent for ${HANG_MS} ms`)));
    socket.on('connect', write);
    socket.on('drain', write);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', (error) => chunks.length > 0 || reject(error));
    socket.on('close', () => resolve(parsed(Buffer.concat(chunks).toString())));
  });
}

function parsed(response: string): HttpResponse {
  const end = response.indexOf('\r\n\r\n');
  const [statusLine = '', ...lines] = response.slice(0, end).split('\r\n');
  const headers = lines.map((line): [string, string] => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  return {
    status: Number(statusLine.split(' ')[1]),
    headers: Object.fromEntries(headers),
    text: response.slice(end + 4),
  };
}
