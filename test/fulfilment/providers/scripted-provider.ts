import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';

/** A request as a provider gets it. */
export type ReceivedRequest = Readonly<{
  method: string;
  path: string;
  key: string;
  body: unknown;
}>;

/** A provider that responds with whatever a test says, and remembers what it was asked. */
export async function startScriptedProvider(
  respond: (request: ReceivedRequest) => Readonly<{ status: number; body: unknown }>,
) {
  const received: ReceivedRequest[] = [];
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const asked = await read(request);
    received.push(asked);
    const { status, body } = respond(asked);
    response.writeHead(status).end(typeof body === 'string' ? body : JSON.stringify(body));
  };
  const server = createServer((request, response) => void handle(request, response));
  const listening = Promise.withResolvers<undefined>();
  server.listen(0, '127.0.0.1', () => listening.resolve(undefined));
  await listening.promise;
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}`,
    received,
    [Symbol.asyncDispose]: async () => {
      const closed = Promise.withResolvers<undefined>();
      server.close(() => closed.resolve(undefined));
      server.closeAllConnections();
      await closed.promise;
    },
  };
}

async function read(request: IncomingMessage): Promise<ReceivedRequest> {
  const text = Buffer.concat(await Array.fromAsync(request)).toString();
  const { method = '', url: path = '', headers } = request;
  const [, , , ofPath = ''] = path.replace(/^\/v2/, '').split('/');
  const key = String(headers['idempotency-key'] ?? decodeURIComponent(ofPath));
  return { method, path, key, body: text === '' ? undefined : JSON.parse(text) };
}
