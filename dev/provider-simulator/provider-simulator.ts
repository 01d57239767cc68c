import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { createCallLog, createWaitingEffects, selection, selects } from './calls.ts';
import type { SimulatedCall } from './calls.ts';
import { contractRequest, readRoute } from './contract.ts';
import type { ContractRequest, ContractResponse } from './contract.ts';
import { createFaultRules, faultRule, faults } from './faults.ts';
import type { ChosenFault, Fault } from './faults.ts';
import { openProviderBooks } from './provider-books.ts';
import { otherAmount, otherCurrency, sendDuplicate, sendJson, sendSpoilt } from './responses.ts';

const BODY_BYTES_MAX = 256 * 1024;
/** Longer than any client keeps a connection, so that the simulator never closes one first. */
const KEEP_ALIVE_MS = 75_000;
const WAIT_MS_MAX = 120_000;

const query = selection.extend({
  after: z.coerce.number().int().min(0).default(0),
  waitMs: z.coerce.number().int().min(0).max(WAIT_MS_MAX).default(0),
});

/** Plays a payment and a shipping provider on one port, with faults on demand. */
export type ProviderSimulator = Readonly<{
  /** Starts to listen and returns the URL. Port 0 picks a free port. */
  listen(port?: number, host?: string): Promise<string>;
  /** Cuts every connection. Effects that are held or late never happen. */
  close(): Promise<void>;
}>;

/**
 * Opens the ledger at once. It is the only state that outlives the process.
 * @throws Error if the ledger cannot be read
 */
export function createProviderSimulator(
  options: Readonly<{ ledgerFile: string }>,
): ProviderSimulator {
  const parts = {
    books: openProviderBooks(options.ledgerFile),
    rules: createFaultRules(),
    waiting: createWaitingEffects(),
    calls: createCallLog(),
  };
  const handle = createHandler(parts);
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, (request, response) => {
    handle(request, response).catch((error: unknown) => {
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
      parts.books.close();
    },
  };
}

type SimulatorParts = Readonly<{
  books: ReturnType<typeof openProviderBooks>;
  rules: ReturnType<typeof createFaultRules>;
  waiting: ReturnType<typeof createWaitingEffects>;
  calls: ReturnType<typeof createCallLog>;
}>;

function createHandler(parts: SimulatorParts) {
  const control = createControlRoutes(parts);
  return async (request: IncomingMessage, response: ServerResponse) => {
    const { method = '', url: target = '/' } = request;
    const url = new URL(target, 'http://simulator');
    const body = await readBody(request);
    const route = readRoute(method, url.pathname);
    if (route) {
      sendDuplicate(request.socket);
      const key = route.key ?? request.headers['idempotency-key'];
      const { contract, operation } = route;
      const asked = contractRequest(contract).safeParse({ operation, key, body });
      if (asked.success) {
        const call = parts.calls.number(contract, asked.data);
        return await handleContractCall(parts, call, asked.data, response);
      }
      return sendJson(response, 400, { outcome: 'not_applied', code: 'invalid_request', key });
    }
    const controlRoute = control[`${method} ${url.pathname}`];
    if (!controlRoute) return sendJson(response, 404, { code: 'no_such_route' });
    try {
      const { status = 200, body: result } = await controlRoute(body, url);
      return sendJson(response, status, result);
    } catch (error) {
      if (!(error instanceof z.ZodError)) throw error;
      return sendJson(response, 400, { code: 'invalid_request', issues: error.issues });
    }
  };
}

type ControlResult = Readonly<{ status?: number; body: unknown }>;
type ControlRoute = (body: unknown, url: URL) => ControlResult | Promise<ControlResult>;

/** What a test reads and controls, by method and path. A route throws ZodError on invalid input. */
function createControlRoutes(parts: SimulatorParts): Readonly<Record<string, ControlRoute>> {
  const { books, rules, waiting, calls } = parts;
  const state = () => ({ rules: rules.list(), waiting: waiting.list() });
  return {
    'GET /livez': () => ({ body: { status: 'ok' } }),
    'GET /faults': () => ({ body: state() }),
    'POST /faults': (body) =>
      rules.add(faultRule.parse(body))
        ? { status: 201, body: state() }
        : { status: 409, body: { code: 'too_many_rules' } },
    'DELETE /faults': () => {
      rules.clear();
      return { body: state() };
    },
    'POST /faults/release': (body) => ({
      body: { released: waiting.release(selection.parse(body ?? {})) },
    }),
    'GET /ledger': (_, url) => {
      const { after, ...chosen } = query.parse(Object.fromEntries(url.searchParams));
      const entries = books.entries.slice(after).filter((entry) => selects(chosen, entry));
      return { body: { entries } };
    },
    'GET /calls': async (_, url) => {
      const { after, waitMs, ...chosen } = query.parse(Object.fromEntries(url.searchParams));
      return { body: { calls: await calls.next(chosen, after, waitMs) } };
    },
  };
}

/** Returns the parsed JSON, or undefined if there is none, too much or something else. */
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

/** Responds to one call of the contract, well or badly, as the rules in force say. */
async function handleContractCall(
  parts: SimulatorParts,
  call: SimulatedCall,
  request: ContractRequest,
  response: ServerResponse,
): Promise<void> {
  const { calls, rules } = parts;
  const chosen = rules.choose(call);
  calls.add(call, chosen.name);
  const right = await carryOut(parts, call, request, chosen);
  if (chosen.delayMs > 0) await delay(chosen.delayMs);
  const { retryAfterSeconds, name } = chosen;
  sendSpoilt(response, { kind: faults[name].response, key: call.key, right, retryAfterSeconds });
}

/** Lets the effect happen as the fault says. Returns the honest response, if there is one. */
async function carryOut(
  { books, waiting }: SimulatorParts,
  call: SimulatedCall,
  request: ContractRequest,
  chosen: ChosenFault,
): Promise<ContractResponse | undefined> {
  const { effect }: Fault = faults[chosen.name];
  switch (effect) {
    case 'now':
      return books.perform(call, request);
    case 'never':
      return undefined;
    case 'held': {
      const { promise, resolve } = Promise.withResolvers<ContractResponse>();
      waiting.add(call, () => resolve(books.perform(call, request)), chosen.lateMs);
      return promise;
    }
    case 'late':
      waiting.add(call, () => void books.perform(call, request), chosen.lateMs);
      return undefined;
    case 'split':
      return books.perform(call, request, { parcels: chosen.parcels });
    case 'refuse':
      return books.perform(call, request, { refuse: true });
    case 'other_amount':
      return books.perform(call, request, {
        alter: (asked) => ({ ...asked, amountCents: otherAmount(asked.amountCents) }),
      });
    case 'other_currency':
      return books.perform(call, request, {
        alter: (asked) => ({ ...asked, currency: otherCurrency(asked.currency) }),
      });
  }
}
