import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { z } from 'zod';
import { createCallLog } from './call-log.ts';
import { answerContractCall } from './contract-calls.ts';
import { contractRequest, readRoute } from './contract-requests.ts';
import { controlRoutes } from './control-routes.ts';
import type { SimulatorParts } from './control-routes.ts';
import { createFaultRules } from './fault-rules.ts';
import { openLedger } from './ledger.ts';
import { createProviderBooks } from './provider-books.ts';
import type { ProviderBooks } from './provider-books.ts';
import { sendJson, sendRepeat } from './send-answer.ts';
import { createWaitingEffects } from './waiting-effects.ts';

const BODY_BYTES_MAX = 256 * 1024;
/** Longer than any client keeps a connection, so that the simulator never closes one first. */
const KEEP_ALIVE_MS = 75_000;

/** Plays a payment and a shipping provider on one port, with faults on demand. */
export type ProviderSimulator = Readonly<{
  /** Starts to serve and resolves to the URL. Port 0 takes any free one. */
  listen(port?: number, host?: string): Promise<string>;
  /** Cuts every connection; what is held or late never lands. */
  close(): Promise<void>;
}>;

/**
 * Opens the ledger at once: it is the only state that outlives the process.
 * @throws Error if the ledger cannot be read
 */
export function createProviderSimulator(
  options: Readonly<{ ledgerFile: string }>,
): ProviderSimulator {
  const ledger = openLedger(options.ledgerFile);
  const parts = {
    ledger,
    rules: createFaultRules(),
    waiting: createWaitingEffects(),
    calls: createCallLog(),
  };
  const answer = createAnswering(parts, createProviderBooks(ledger));
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, (request, response) => {
    answer(request, response).catch((error: unknown) => {
      const clientLeft = request.destroyed && !request.complete;
      if (!clientLeft) console.error(error);
      if (!response.headersSent) sendJson(response, 500, { code: 'simulator_broken' });
    });
  });
  return {
    listen: async (port = 0, host = '127.0.0.1') => {
      const { promise, resolve, reject } = Promise.withResolvers<undefined>();
      server.once('error', reject).listen(port, host, () => resolve(undefined));
      await promise;
      const address = server.address();
      return `http://${host}:${typeof address === 'object' && address ? address.port : port}`;
    },
    close: async () => {
      const { promise, resolve } = Promise.withResolvers<undefined>();
      server.close(() => resolve(undefined));
      server.closeAllConnections();
      await promise;
      parts.waiting.drop();
      ledger.close();
    },
  };
}

/** Tells a call of the contract from one that steers the simulator, and answers it. */
function createAnswering(parts: SimulatorParts, books: ProviderBooks) {
  const control = controlRoutes(parts);
  return async (request: IncomingMessage, response: ServerResponse) => {
    const { method = '', url: target = '/' } = request;
    const url = new URL(target, 'http://simulator');
    const body = await readBody(request);
    const steer = control.get(`${method} ${url.pathname}`);
    const route = readRoute(method, url.pathname);
    if (route) {
      sendRepeat(request.socket);
      const key = route.key ?? request.headers['idempotency-key'];
      const asked = contractRequest.safeParse({ ...route, key, body });
      if (asked.success) return await answerContractCall(parts, books, asked.data, response);
      return sendJson(response, 400, { outcome: 'not_applied', code: 'invalid_request', key });
    }
    if (!steer) return sendJson(response, 404, { code: 'no_such_route' });
    try {
      const answer = await steer(body, url);
      return sendJson(response, answer.status, answer.body);
    } catch (error) {
      if (!(error instanceof z.ZodError)) throw error;
      return sendJson(response, 400, { code: 'invalid_request', issues: error.issues });
    }
  };
}

/** The JSON of a request; nothing where there is none, or too much, or something else. */
async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) continue;
    size += chunk.length;
    if (size <= BODY_BYTES_MAX) chunks.push(chunk);
  }
  try {
    return size <= BODY_BYTES_MAX ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
  } catch {
    return undefined;
  }
}
