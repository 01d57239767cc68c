import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { deliveryOf } from './checker.ts';
import type { CommandName, OrderApi } from './order-api.ts';
import { eventually } from './poll.ts';
import type { Random } from './random.ts';
import { createRecorder } from './recorder.ts';
import type { Call, Recorder } from './recorder.ts';

const RETRY_MS = 20;
const ACKNOWLEDGED_MS_MAX = 120_000;

/** Clients that send commands until they are stopped. `using` abandons the commands under way. */
export type Load = Disposable &
  Readonly<{
    recorder: Recorder;
    /** Waits until `count` more commands have been acknowledged. Throws if that takes too long. */
    acknowledged(count: number): Promise<void>;
    /** Waits for the commands under way and sends no more. */
    stop(): Promise<void>;
  }>;

/**
 * Each client places an order and sends the commands of a random road, one after the other, all with keys. A
 * command whose outcome is unknown, or that got a 5xx, is retried with its key until it is settled.
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
  const anyApi = () => apis[random.below(apis.length)]!;
  const untilSettled = async (attempt: () => Promise<Call>): Promise<Call> => {
    for (;;) {
      const call = await attempt();
      if (call.outcome === 'ok') acks += 1;
      if (isSettled(call) || abandoned.signal.aborted) return call;
      await delay(RETRY_MS);
    }
  };
  const client = async () => {
    while (!stopping.signal.aborted) {
      const key = randomUUID();
      const placed = await untilSettled(() => recorder.place(anyApi(), { key, token: key }));
      let parcel = '';
      for (const [name, more] of roads[random.below(roads.length)]!) {
        if (stopping.signal.aborted || placed.order === undefined) break;
        const { order } = placed;
        const key = randomUUID();
        if (name === 'ship') parcel = key;
        const options =
          name === 'deliver'
            ? { key, token: deliveryOf(parcel), more: { trackingNumber: parcel } }
            : { key, token: key, ...(more && { more }) };
        await untilSettled(() => recorder.send(anyApi(), name, order, options));
      }
    }
  };
  const ended = Promise.all(Array.from({ length: clients }, client));
  return {
    recorder,
    acknowledged: async (count) => {
      const enough = acks + count;
      await eventually(() => acks >= enough, { withinMs: ACKNOWLEDGED_MS_MAX, everyMs: 2 });
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

/** The commands of a road, some with other members in their bodies. A delivery is that of the last parcel. */
const roads: readonly (readonly (readonly [CommandName, object?])[])[] = [
  [],
  [['pay']],
  [['pay'], ['ship']],
  [['pay'], ['cancel'], ['refund']],
  [['cancel']],
  [['pay'], ['ship', { items: [{ lineId: '1', quantity: 1 }] }], ['cancel'], ['deliver'], ['ship']],
  [
    ['pay'],
    ['ship', { items: [{ lineId: '2', quantity: 5 }] }],
    ['return', { items: [{ lineId: '2', quantity: 4 }] }],
    ['ship'],
    ['deliver'],
    ['return'],
    ['refund', { amountCents: 1200 }],
    ['refund'],
  ],
];

function isSettled({ outcome, response, reason }: Call): boolean {
  if (outcome === 'ok') return true;
  if (outcome === 'info' || reason === 'idempotency_key_in_use') return false;
  return (response?.status ?? 500) < 500;
}
