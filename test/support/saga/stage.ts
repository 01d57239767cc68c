import { pointOf, watchPoints } from './points.ts';
import type { OrderPoint, SagaPoint } from './points.ts';
import { eventually } from '../poll.ts';
import { refusalOf } from './api.ts';
import type { Story } from './stories.ts';
import { startReplica } from './world.ts';
import type { Replica, SagaWorld } from './world.ts';

/** One order of a story, and what it passed. */
export type Case = Readonly<{
  story: Story;
  orderId: string;
  /** In order, whoever worked on it. */
  passed: readonly OrderPoint[];
  /** Where whoever worked on it died. */
  died: readonly OrderPoint[];
  /** What a customer who cancelled was told. */
  cancelled: string | undefined;
}>;

type Playing = {
  readonly story: Story;
  readonly orderId: string;
  /** Counted over all points that it passes, from 1. */
  readonly diesAt: readonly number[];
  readonly wakesAt: number | undefined;
  readonly passed: OrderPoint[];
  readonly died: OrderPoint[];
  /** Gives its place to another order: this one is over, or nobody works on it. */
  leave: () => void;
  cancelled: string | undefined;
  over: boolean;
  /** Those who died find that they are late. */
  readonly wakes: PromiseWithResolvers<void>;
};

/** Orders that replicas work on at once: with many more, calls would time out for want of a processor. */
const AT_WORK_MAX = 40;
/** So long that none runs out by itself: the stage ends the leases of the dead, when there is room. */
const LEASE_MARGIN_MS = '60000';
const REST_MS_MAX = 180_000;
const ID_LENGTH = 36;
/** With providers that are well again, one would do. */
const REPAIRS_MAX = 4;
/** How a cancel may be refused while a saga runs. */
const TOO_LATE = new Set(['409 shipment_requested', '409 order_already_shipped']);

/** Two replicas that die, saga by saga, where the cases say. */
export type Stage = AsyncDisposable &
  Readonly<{
    /**
     * Plays a story to its end, with a death at each of the counted points. The dead are only paused: they
     * wake at the point `wakesAt`, in the midst of their successor's work, or else at the end.
     */
    play(story: Story, diesAt?: readonly number[], wakesAt?: number): Promise<Case>;
    /** Stops both, late sleepers too, and tells what went wrong within them. */
    stop(): Promise<string[]>;
  }>;

export async function createStage(
  world: SagaWorld,
  { now, env }: Readonly<{ now?: () => Date; env?: Readonly<Record<string, string>> }> = {},
): Promise<Stage> {
  const { database, simulator } = world;
  const orders = new Map<string, Playing>();
  const sagas = new Map<string, Readonly<{ one: Playing; definition: string }>>();
  const replicas: Replica[] = [];
  const rest = createRestWatch(world);
  const room = createRoom(AT_WORK_MAX);
  let turn = 0;
  let ended = false;

  const playingOf = async (sagaId: string) => {
    const known = sagas.get(sagaId);
    if (known) return known;
    const [row] = await database.query<{ subject_id: string; definition: string }>(
      'select subject_id, definition from saga_work where saga_id = $1',
      [sagaId],
    );
    const one = orders.get(row?.subject_id ?? '');
    if (!row || !one) throw new Error(`saga ${sagaId} is in no play`);
    const found = { one, definition: row.definition };
    sagas.set(sagaId, found);
    return found;
  };
  const observe = async (reached: SagaPoint, sagaId: string) => {
    const { one, definition } = await playingOf(sagaId);
    const point = pointOf(definition, reached);
    if (one.over || ended) return;
    one.passed.push(point);
    const passage = one.passed.length;
    if (one.story.cancelAt === point && one.cancelled === undefined) {
      one.cancelled = '';
      one.cancelled = await cancel(next(), one.orderId);
    }
    if (one.story.landsAt === point) await simulator.release({ orderId: one.orderId });
    if (passage === one.wakesAt) one.wakes.resolve();
    if (!one.diesAt.includes(passage)) return;
    one.died.push(point);
    one.leave();
    await Promise.all([giveToAnother(one, sagaId), one.wakes.promise]);
  };
  const giveToAnother = async (one: Playing, sagaId: string) => {
    one.leave = await room.enter('first');
    if (one.over) one.leave();
    else await endLease(world, sagaId);
  };
  const next = () => {
    turn += 1;
    return replicas[turn % replicas.length]!;
  };
  for (let index = 0; index < 2; index += 1) {
    const settings = { SAGA_LEASE_MARGIN_MS: LEASE_MARGIN_MS, ...env };
    replicas.push(
      await startReplica(world, { ...watchPoints(observe), env: settings, ...(now && { now }) }),
    );
  }

  const stage: Stage = {
    play: async (story, diesAt = [], wakesAt) => {
      const leave = await room.enter('last');
      const { sku = 'book', priceCents = 1250, faults } = story;
      const items = [{ sku, quantity: 2, priceCents }];
      const orderId = await next().api.placed(items, 'manual');
      const one: Playing = {
        story,
        orderId,
        diesAt,
        wakesAt,
        passed: [],
        died: [],
        leave,
        cancelled: undefined,
        over: false,
        wakes: Promise.withResolvers<void>(),
      };
      orders.set(orderId, one);
      for (const fault of faults) await simulator.addFault({ ...fault, orderId });
      const { api } = next();
      const { status, text } = await api.command('fulfil', orderId);
      if (status !== 202) throw new Error(`fulfil got ${status}: ${text}`);
      if ((await rest(orderId)) === 'stuck' && !story.mayBeStuck) {
        const retried = await api.command('fulfilment/retry', orderId);
        if (retried.status !== 202) throw new Error(`retry got ${retried.text}`);
        await rest(orderId);
      }
      if (story.refunds) await refund(next, world, one, rest);
      await eventually(() => hasPassedItsCommits(one), { withinMs: 1_000 }).catch(() => undefined);
      one.over = true;
      one.leave();
      one.wakes.resolve();
      return one;
    },
    stop: async () => {
      for (const replica of replicas) await replica.stop();
      return replicas.flatMap(({ errors }) => errors());
    },
    [Symbol.asyncDispose]: async () => {
      ended = true;
      for (const { wakes } of orders.values()) wakes.resolve();
      await stage.stop();
      await rest.end();
    },
  };
  return stage;
}

/**
 * The commit that ends a saga is seen in the database before its run has passed it. A commit that failed is
 * never passed, so nobody waits for long.
 */
function hasPassedItsCommits({ passed, died }: Playing): boolean {
  const count = (points: readonly OrderPoint[], part: string) =>
    points.filter((point) => point.includes(part)).length;
  return (
    count(passed, 'after commit') + count(died, 'before commit') >= count(passed, 'before commit')
  );
}

async function cancel({ api }: Replica, orderId: string): Promise<string> {
  const response = await api.command('cancel', orderId, { reason: 'changed my mind' });
  if (response.status === 200 || response.status === 202) return String(response.status);
  const refusal = refusalOf(response);
  if (!TOO_LATE.has(refusal)) throw new Error(`cancel got ${response.text}`);
  return refusal;
}

/** Asks for the refunds of a story at once. Those that are stuck are repaired as an operator would. */
async function refund(
  next: () => Replica,
  { simulator }: SagaWorld,
  one: Playing,
  rest: (orderId: string, definition: string) => Promise<string>,
): Promise<void> {
  const { orderId, story } = one;
  const { refunds = [], mayBeStuck, resolves } = story;
  const asked = refunds.map(async (amountCents, index) => {
    const body = { refundId: `ref-${index}`, amountCents };
    const { status, text } = await next().api.command('refund', orderId, body);
    if (status !== 202) throw new Error(`refund got ${status}: ${text}`);
  });
  await Promise.all(asked);
  for (let repairs = 0; repairs < REPAIRS_MAX; repairs += 1) {
    if ((await rest(orderId, 'refund')) !== 'stuck' || mayBeStuck) return;
    const { api } = next();
    for (const { refundId, sagaId, state } of await api.refunds(orderId)) {
      if (state !== 'stuck') continue;
      const path = `refunds/${refundId}`;
      if (resolves) {
        await wake(one);
        await simulator.release({ orderId });
      }
      const made = (await simulator.ledger({ orderId })).some(
        ({ effect, key }) => effect === 'refund' && key.startsWith(sagaId ?? ''),
      );
      const word = { step: 'refund', reason: 'asked the provider' };
      const outcome = made ? { outcome: 'done', reference: 're_1' } : { outcome: 'notDone' };
      const { status, text } = resolves
        ? await api.command(`${path}/resolve`, orderId, { ...word, ...outcome })
        : await api.command(`${path}/retry`, orderId);
      if (status !== 202) throw new Error(`repair got ${status}: ${text}`);
    }
  }
}

/**
 * Nobody can take back a refund that the provider may still be asked for. So an operator states an outcome only once
 * the dead have woken, and made the call that they were about to make.
 */
async function wake({ passed, died, wakes }: Playing): Promise<void> {
  const calls = (when: 'before' | 'after') =>
    passed.filter((point) => new RegExp(`^refund: ${when} (send|look_up) `).test(point)).length;
  const announced = died.filter((point) => point === 'refund: after commit start').length;
  const callsMin = calls('before') + announced;
  wakes.resolve();
  // Whoever finds that the lease is over makes no call, so nobody waits for long.
  const areMade = () => calls('before') >= callsMin && calls('after') === calls('before');
  await eventually(areMade, { withinMs: 2_000 }).catch(() => undefined);
}

/** Waits for many sagas with one query at a time: all of a definition that an order has. */
function createRestWatch({ database }: SagaWorld) {
  const waiting = new Map<string, (state: string) => void>();
  let ended = false;
  const look = async () => {
    const keys = [...waiting.keys()];
    const rows = await database.query<{ key: string; state: string }>(
      `select concat(subject_id, definition) as key, max(state) as state from saga_work
       where subject_id = any($1) group by subject_id, definition
       having bool_and(state in ('completed', 'compensated', 'stuck'))`,
      [keys.map((key) => key.slice(0, ID_LENGTH))],
    );
    for (const { key, state } of rows) {
      waiting.get(key)?.(state);
      waiting.delete(key);
    }
    return ended;
  };
  const looking = eventually(look, { withinMs: Infinity, everyMs: 20 });
  const rest = async (orderId: string, definition = 'fulfilment') => {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    waiting.set(`${orderId}${definition}`, resolve);
    const late = setTimeout(() => {
      reject(new Error(`the saga of ${orderId} does not come to rest`));
    }, REST_MS_MAX);
    try {
      return await promise;
    } finally {
      clearTimeout(late);
    }
  };
  return Object.assign(rest, {
    end: async () => {
      ended = true;
      await looking;
    },
  });
}

/** What time would do: the lease of whoever works on the saga is over, and it is due. */
async function endLease({ database }: SagaWorld, sagaId: string): Promise<void> {
  await database.query(
    `update saga_work set lease_until = clock_timestamp(), due_at = clock_timestamp()
     where saga_id = $1 and lease_until is not null`,
    [sagaId],
  );
}

/** Lets a number in at once; the others queue. Whoever is let in gets the way to leave. */
function createRoom(max: number) {
  const queue: (() => void)[] = [];
  let inside = 0;
  const leave = () => {
    const first = queue.shift();
    if (first) first();
    else inside -= 1;
  };
  return {
    enter: async (place: 'first' | 'last'): Promise<() => void> => {
      if (inside < max) inside += 1;
      else {
        await new Promise<void>((resolve) => {
          if (place === 'first') queue.unshift(resolve);
          else queue.push(resolve);
        });
      }
      let left = false;
      return () => {
        if (!left) leave();
        left = true;
      };
    },
  };
}
