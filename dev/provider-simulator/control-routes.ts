import { z } from 'zod';
import type { createCallLog } from './call-log.ts';
import { faultRule } from './fault-rules.ts';
import type { createFaultRules } from './fault-rules.ts';
import type { Ledger } from './ledger.ts';
import { selection, selects } from './simulated-call.ts';
import type { createWaitingEffects } from './waiting-effects.ts';

const WAIT_MS_MAX = 120_000;

const query = selection.extend({
  after: z.coerce.number().int().min(0).default(0),
  waitMs: z.coerce.number().int().min(0).max(WAIT_MS_MAX).default(0),
});

/** The parts of a simulator that a test looks at and steers. */
export type SimulatorParts = Readonly<{
  ledger: Ledger;
  rules: ReturnType<typeof createFaultRules>;
  waiting: ReturnType<typeof createWaitingEffects>;
  calls: ReturnType<typeof createCallLog>;
}>;

type ControlAnswer = Readonly<{ status: number; body: unknown }>;
type ControlRoute = (body: unknown, url: URL) => ControlAnswer | Promise<ControlAnswer>;

/** What a test does with a simulator, by method and path. A route throws ZodError on bad input. */
export function controlRoutes(parts: SimulatorParts): ReadonlyMap<string, ControlRoute> {
  const { ledger, rules, waiting, calls } = parts;
  const state = () => ({ rules: rules.list(), waiting: waiting.list() });
  return new Map<string, ControlRoute>([
    ['GET /livez', () => ok({ status: 'ok' })],
    ['GET /faults', () => ok(state())],
    [
      'POST /faults',
      (body) =>
        rules.add(faultRule.parse(body))
          ? { status: 201, body: state() }
          : { status: 409, body: { code: 'too_many_rules' } },
    ],
    [
      'DELETE /faults',
      () => {
        rules.clear();
        return ok(state());
      },
    ],
    [
      'POST /faults/release',
      (body) => ok({ released: waiting.release(selection.parse(body ?? {})) }),
    ],
    [
      'GET /ledger',
      (_, url) => {
        const { after, ...chosen } = query.parse(Object.fromEntries(url.searchParams));
        const meant = ledger.entries.slice(after).filter((entry) => selects(chosen, entry));
        return ok({ entries: meant });
      },
    ],
    [
      'GET /calls',
      async (_, url) => {
        const { after, waitMs, ...chosen } = query.parse(Object.fromEntries(url.searchParams));
        return ok({ calls: await calls.next(chosen, after, waitMs) });
      },
    ],
  ]);
}

const ok = (body: unknown): ControlAnswer => ({ status: 200, body });
