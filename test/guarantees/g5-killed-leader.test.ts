import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { createRandom } from '#test/support/random.ts';
import { faultsOf, isComplete } from '../outbox/delivery.ts';
import { writeInRace } from '../outbox/racing-writers.ts';

const RELAY_PROCESS = fileURLToPath(new URL('../outbox/relay-process.ts', import.meta.url));

/** Servers are stopped and started, processes killed, on machines that may be busy. */
const slow = { timeout: 600_000 };

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))('G5 when leaders die', slow, () => {
  test('kill -9 of the leader in mid-send costs no event, nor the order', async () => {
    await using service = await startService(2);
    const random = createRandom();
    for (let kill = 0; kill < 6; kill += 1) {
      const leader = await service.nextSending();
      await delay(random.below(15)); // before, during and after the answer
      leader.kill('SIGKILL');
      await once(leader, 'exit');
      service.startRelay();
    }
    expect(await service.faults()).toEqual([]);
  });

  test('a leader frozen in mid-send and thawed after its lease cannot change the order', async () => {
    await using service = await startService(2);
    for (let freeze = 0; freeze < 3; freeze += 1) {
      const leader = await service.nextSending();
      leader.kill('SIGSTOP');
      await service.nextSending(leader); // the other one leads by now
      leader.kill('SIGCONT');
    }
    expect(await service.faults()).toEqual([]);
  });
});

/** Relays in processes of their own, on one database, and writers that keep them busy. */
async function startService(replicas: number) {
  const stack = new AsyncDisposableStack();
  const db = stack.use(await createTestDatabase());
  const topic = stack.use(await createTestTopic(3));
  const relays = new Set<ChildProcess>();
  const listeners = new Set<(relay: ChildProcess) => void>();

  const startRelay = () => {
    const relay = fork(RELAY_PROCESS, [db.url, topic.name, ...topic.brokers]);
    relays.add(relay);
    relay.on('message', (message) => {
      if (message === 'sending') for (const listener of listeners) listener(relay);
    });
    relay.once('exit', () => relays.delete(relay));
  };
  stack.defer(async () => {
    for (const relay of relays) {
      relay.kill('SIGKILL');
      await once(relay, 'exit');
    }
  });
  for (let replica = 0; replica < replicas; replica += 1) startRelay();
  const writing = writeInRace({
    url: db.url,
    topic: topic.name,
    writers: 3,
    keysEach: 8,
    versions: 60,
  });

  return {
    startRelay,
    /** The relay that next starts to send, or the next other than the one given. */
    nextSending: async (otherThan?: ChildProcess) => {
      const sending = Promise.withResolvers<ChildProcess>();
      const listener = (relay: ChildProcess) => {
        if (relay !== otherThan) sending.resolve(relay);
      };
      listeners.add(listener);
      // Whatever the writers do, there is something to send.
      const relay = await sending.promise;
      listeners.delete(listener);
      return relay;
    },
    /** What is wrong with the topic once all is written and published. */
    faults: async () => {
      const expected = await writing;
      const messages = await readTopic(topic.name, {
        until: (all) => isComplete(all, expected),
      });
      const isEmpty = async () => (await db.query('select from outbox_events')).length === 0;
      await eventually(isEmpty);
      return faultsOf(messages, expected);
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}
