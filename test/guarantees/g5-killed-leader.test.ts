import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { kafkaClients } from '#src/outbox/publishers.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { eventually } from '#test/support/poll.ts';
import { createRandom } from '#test/support/random.ts';
import { faultsOf, isComplete } from '../outbox/delivery.ts';
import { insertEvents } from '../outbox/outbox-fixture.ts';
import { writeInRace } from '../outbox/racing-writers.ts';

const RELAY_PROCESS = fileURLToPath(new URL('../outbox/relay-process.ts', import.meta.url));

/** Servers are restarted and processes killed, on machines that may be busy. */
const slow = { timeout: 600_000 };

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))('G5 when leaders die', slow, () => {
  test('kill -9 of the leader during a send loses no event and keeps the order', async () => {
    await using service = await startService(2);
    const random = createRandom();
    for (let kill = 0; kill < 6; kill += 1) {
      const leader = await service.nextSending();
      await delay(random.below(15)); // before, during and after the response
      await service.kill(leader);
      service.startRelay();
    }
    expect(await service.faults()).toEqual([]);
  });

  test('a leader that is frozen during a send and resumes after its lease keeps the order', async () => {
    await using service = await startService(2);
    for (let freeze = 0; freeze < 3; freeze += 1) {
      const leader = await service.nextSending();
      leader.relay.kill('SIGSTOP');
      await service.nextSending(leader); // the other one leads by now
      leader.relay.kill('SIGCONT');
    }
    expect(await service.faults()).toEqual([]);
  });
});

/** A relay that is about to send, and the epoch in which it leads. */
type Leader = Readonly<{ relay: ChildProcess; epoch: number }>;

/** Relays in their own processes on one database, and writers that keep them busy. */
async function startService(replicas: number) {
  const stack = new AsyncDisposableStack();
  const db = stack.use(await createTestDatabase());
  const topic = stack.use(await createTestTopic(3));
  const relays = new Set<ChildProcess>();
  const listeners = new Set<(leader: Leader) => void>();
  const key = randomUUID();
  let versions = 0;

  let started = 0;

  /** Relays use the Kafka libraries in turns. They must get along with each other. */
  const startRelay = () => {
    const client = kafkaClients[started % kafkaClients.length] ?? '';
    started += 1;
    const relay = fork(RELAY_PROCESS, [client, db.url, topic.name, ...topic.brokers]);
    relays.add(relay);
    relay.on('message', (epoch) => {
      if (typeof epoch === 'number') for (const listener of listeners) listener({ relay, epoch });
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
    /** The next leader that starts to send; with an argument, the next other one. */
    nextSending: async (otherThan?: Leader) => {
      let next: Leader | undefined;
      const listener = (leader: Leader) => {
        if (leader.relay !== otherThan?.relay) next ??= leader;
      };
      listeners.add(listener);
      // The writers may have finished, so one more event is written to be sent.
      const leader = await eventually(
        async () => {
          versions += 1;
          await insertEvents(db, topic.name, [{ key, version: versions }]);
          if (next === undefined) throw new Error('no leader sends');
          return next;
        },
        { everyMs: 100 },
      );
      listeners.delete(listener);
      return leader;
    },
    /** `kill -9`, and the lease ends at once instead of at its expiry. */
    kill: async ({ relay, epoch }: Leader) => {
      relay.kill('SIGKILL');
      await once(relay, 'exit');
      await db.query('update leases set expires_at = clock_timestamp() where epoch = $1', [epoch]);
    },
    /** What is wrong with the topic once everything is written and published. */
    faults: async () => {
      const expected = new Map([...(await writing), [key, versions]]);
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
