import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { folders } from '#dev/folders.ts';
import { startKafka } from '#dev/local-kafka.ts';
import type { KafkaConnection } from '#src/outbox/kafka-connection.ts';
import type { OutboxMessage } from '#src/outbox/outbox.ts';
import { kafkaClients, loadPublisher } from '#src/outbox/publishers.ts';
import type { KafkaClientName } from '#src/outbox/publishers.ts';
import { createAuthority } from '#test/support/certificates.ts';
import { PASSWORDS, secureListeners } from '#test/support/secure-listeners.ts';

/*
 * What the two Kafka libraries cost as publishers, in turns, with a real Kafka. Each partition has one
 * batch in flight, as in the relay. CPU time is that of this process, without the broker.
 *
 *   node bench/publishers.ts [--seconds 5] [--rounds 4] [--batch 500] [--partitions 6]
 *   node bench/publishers.ts --tls      each also over TLS with SCRAM-SHA-512
 */
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '4' },
    batch: { type: 'string', default: '500' },
    partitions: { type: 'string', default: '6' },
    tls: { type: 'boolean', default: false },
  },
});
const PAYLOAD_BYTES = 600;
const IDLE_MS = 3_000;
const TIMEOUT_MS = 30_000;
const seconds = Number(values.seconds);
const partitions = Number(values.partitions);
const quiet = { debug: () => {}, info: () => {} };

const folder = await mkdtemp(join(tmpdir(), 'publishers-bench-'));
const authority = await createAuthority(folder, 'ca');
const { extras, ports } = await secureListeners(authority);
const settings = { ...extras.settings, 'num.network.threads': '3' }; // Kafka's default
const kafka = await startKafka({
  folder: join(folder, 'kafka'),
  cacheFolder: folders.cache,
  log: console.log,
  ...(values.tls && { extras: { ...extras, settings } }),
});
const plaintext: KafkaConnection = { brokers: [kafka.broker] };
const secure: KafkaConnection = {
  brokers: [`127.0.0.1:${ports.login}`],
  tls: { caFile: authority.caFile },
  sasl: { mechanism: 'scram-sha-512', username: 'orders', password: PASSWORDS.orders },
};
const connections = values.tls ? { plaintext, TLS: secure } : { plaintext };
try {
  await measureAll(); // warms up
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    for (const line of await measureAll()) console.log(`${String(round).padStart(2)} ${line}`);
  }
} finally {
  await kafka.kill();
  await rm(folder, { recursive: true, force: true });
}

/** Each library with each connection. */
async function measureAll(): Promise<string[]> {
  const lines = [];
  for (const [how, connection] of Object.entries(connections)) {
    for (const client of kafkaClients) {
      const figures = await measure(client, connection);
      lines.push(`${client.padEnd(13)} ${how.padEnd(9)} ${figures}`);
    }
  }
  return lines;
}

async function measure(client: KafkaClientName, connection: KafkaConnection): Promise<string> {
  const create = await loadPublisher(client);
  const publisher = create({ connection, newTopic: { partitions, replication: 1 }, log: quiet });
  const topic = `bench-${randomUUID()}`;
  await publisher.openTopic(topic);
  const messages = Array.from({ length: Number(values.batch) }, (_, index) => newMessage(index));
  const send = async (partition: number): Promise<number> => {
    const outcome = await publisher.publish({ topic, partition, messages, timeoutMs: TIMEOUT_MS });
    return outcome.kind === 'acked' ? messages.length : 0;
  };
  for (let partition = 0; partition < partitions; partition += 1) await send(partition);

  const delays = monitorEventLoopDelay({ resolution: 1 });
  delays.enable();
  const startedAtMs = performance.now();
  const startedCpu = process.cpuUsage();
  const keepSending = async (partition: number): Promise<number> => {
    let sent = 0;
    while (performance.now() - startedAtMs < seconds * 1_000) sent += await send(partition);
    return sent;
  };
  const counts = await Promise.all(Array.from({ length: partitions }, (_, at) => keepSending(at)));
  const sent = counts.reduce((sum, count) => sum + count);
  const cpuMs = cpuMsSince(startedCpu);
  const elapsedMs = performance.now() - startedAtMs;
  delays.disable();
  const idleCpu = process.cpuUsage();
  await sleep(IDLE_MS);
  const idleMs = cpuMsSince(idleCpu);
  await publisher.close();
  return [
    `${Math.round((sent * 1_000) / elapsedMs)} messages/s`,
    `${((cpuMs * 1_000) / sent).toFixed(1)} ms CPU per 1,000`,
    `event loop blocked for ${Math.round(delays.percentile(99) / 1e6)} ms at p99`,
    `${(idleMs / (IDLE_MS / 1_000)).toFixed(1)} ms CPU/s when idle`,
  ].join(', ');
}

function cpuMsSince(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1_000;
}

function newMessage(index: number): OutboxMessage {
  const id = randomUUID();
  return {
    key: id,
    value: JSON.stringify({ orderId: id, text: 'x'.repeat(PAYLOAD_BYTES - 60) }),
    headers: {
      ce_specversion: '1.0',
      ce_id: randomUUID(),
      ce_type: 'order.placed',
      ce_source: '/orders',
      ce_time: '2026-01-02T03:04:05.678Z',
      ce_subject: id,
      ce_sequence: String(index).padStart(10, '0'),
      'content-type': 'application/json',
    },
  };
}
