import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { CommandName, OrderApi } from './order-api.ts';
import type { Random } from './random.ts';
import { createRecorder } from './recorder.ts';
import type { Call, Recorder } from './recorder.ts';

const RETRY_MS = 20;
const ACKNOWLEDGED_MS_MAX = 120_000;

/** Clients that go on until they are stopped; `using` abandons what they are at. */
export type Load = Disposable &
  Readonly<{
    recorder: Recorder;
    /** Answers when so many more commands have been acknowledged; fails if that takes too long. */
    acknowledged(count: number): Promise<void>;
    /** Lets every command that was begun come to an end. */
    stop(): Promise<void>;
  }>;

/**
 * Each client places an order and takes it on by a random road, one command after the other, all with keys.
 * A command whose outcome is not known, or that was turned away with a 5xx, is repeated with its key until
 * there is an answer.
 */
export function startLoad(
  apis: readonly OrderApi[],
  {
    clients,
    random,
    recorder = createRecorder(),
  }: Readonly<{ clients: number; random: Random; recorder?: Recorder }>,
): Load {
  const stopping = new AbortController();
  const abandoned = new AbortController();
  let acks = 0;
  const waiting = new Set<() => void>();
  const anyApi = () => apis[random.below(apis.length)]!;
  const untilAnswered = async (attempt: () => Promise<Call>): Promise<Call> => {
    for (;;) {
      const call = await attempt();
      if (call.outcome === 'ok') {
        acks += 1;
        for (const look of waiting) look();
      }
      if (isSettled(call) || abandoned.signal.aborted) return call;
      await delay(RETRY_MS);
    }
  };
  const client = async () => {
    while (!stopping.signal.aborted) {
      const key = randomUUID();
      const placed = await untilAnswered(() => recorder.place(anyApi(), { key, token: key }));
      for (const name of roads[random.below(roads.length)]!) {
        if (stopping.signal.aborted || placed.order === undefined) break;
        const { order } = placed;
        const key = randomUUID();
        await untilAnswered(() => recorder.send(anyApi(), name, order, { key, token: key }));
      }
    }
  };
  const ended = Promise.all(Array.from({ length: clients }, client));
  return {
    recorder,
    acknowledged: (count) => {
      const enough = acks + count;
      return new Promise((resolve, reject) => {
        const look = () => {
          if (acks < enough) return;
          clearTimeout(deadline);
          waiting.delete(look);
          resolve();
        };
        const deadline = setTimeout(() => {
          waiting.delete(look);
          reject(new Error(`${enough - acks} of ${count} acknowledgements are missing`));
        }, ACKNOWLEDGED_MS_MAX);
        waiting.add(look);
        look();
      });
    },
    stop: async () => {
      stopping.abort();
      await ended;
    },
    [Symbol.dispose]: () => {
      stopping.abort();
      abandoned.abort();
    },
  };
}

const roads: readonly (readonly CommandName[])[] = [
  [],
  ['pay'],
  ['pay', 'ship'],
  ['pay', 'cancel', 'refund'],
  ['cancel'],
];

function isSettled({ outcome, answer, reason }: Call): boolean {
  if (outcome === 'ok') return true;
  if (outcome === 'info' || reason === 'idempotency_key_in_use') return false;
  return (answer?.status ?? 500) < 500;
}
