import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { metadataV7 } from '@platformatic/kafka';
import metadata from 'kafkajs/src/protocol/requests/metadata/index.js';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
// Importing it patches kafkajs.
import { createConnections, createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import type { OutboxMessage, PublishRequest } from '#src/outbox/outbox.ts';
import { createBrokers } from '#src/outbox/platformatic-brokers.ts';
import { startFaultyKafka } from '#test/support/faulty-servers.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic, testBrokers, untilLed } from '#test/support/kafka.ts';
import { createChangingTopic, quiet, testPublishers } from './outbox-fixture.ts';

const TIMEOUT_MS = 20_000;

function message(value: string, key = 'key'): OutboxMessage {
  return { key, value, headers: { ce_id: value, 'content-type': 'application/json' } };
}

function request(topic: string, values: string[], more: Partial<PublishRequest> = {}) {
  const messages = values.map((value) => message(value));
  return { topic, partition: 0, messages, timeoutMs: TIMEOUT_MS, ...more };
}

const publishers = await testPublishers();

describe.skipIf(skipReason('kafka')).each(publishers)(
  'publishing to Kafka with $client',
  ({ client, create, testPublisher }) => {
    test('creates the topic that is missing, with the partitions of the settings', async () => {
      const publisher = testPublisher(await testBrokers(), 7);
      const topic = `test-${randomUUID()}`;
      await expect(publisher.openTopic(topic)).resolves.toMatchObject({ partitions: 7 });
      await publisher.close();
    });

    test('says why a topic cannot be created', async () => {
      const publisher = create({
        connection: { brokers: await testBrokers() },
        newTopic: { partitions: 1, replication: 9 },
        log: quiet,
      });
      const opening = publisher.openTopic(`test-${randomUUID()}`);
      await expect(opening).rejects.toThrow(/cannot create topic .*replication.factor/i);
      await publisher.close();
    });

    test('returns the limits of an existing topic, and changes nothing', async () => {
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 5_000);
      const publisher = testPublisher(brokers, 7);
      const limits = await publisher.openTopic(topic.name);
      expect(limits).toEqual({ partitions: 1, batchBytesMax: 5_000 });
      await publisher.close();
    });

    test('puts key, headers and value into the given partition, in order', async () => {
      await using topic = await createTestTopic(4);
      const publisher = testPublisher(topic.brokers);
      const outcome = await publisher.publish(
        request(topic.name, ['1', '2', '3'], { partition: 2 }),
      );
      expect(outcome).toEqual({ kind: 'acked' });
      const messages = await readTopic(topic.name, { until: (all) => all.length === 3 });
      expect(messages).toEqual(
        ['1', '2', '3'].map((value, offset) =>
          Object.assign({ partition: 2, offset }, message(value)),
        ),
      );
      await publisher.close();
    });

    test('reports a batch as refused when a record is too large for the topic', async () => {
      const brokers = await testBrokers();
      await using topic = await createChangingTopic(brokers, 2_000);
      const publisher = testPublisher(brokers);
      const tooLarge = await publisher.publish(request(topic.name, ['1', 'x'.repeat(3_000)]));
      expect(tooLarge).toEqual({ kind: 'refused', reason: 'MESSAGE_TOO_LARGE' });
      await expect(publisher.publish(request(topic.name, ['2']))).resolves.toEqual({
        kind: 'acked',
      });
      const messages = await readTopic(topic.name, { until: (all) => all.length > 0 });
      expect(messages.map(({ value }) => value)).toEqual(['2']);
      await publisher.close();
    });

    test('does not report a batch as acknowledged that went to no partition', async () => {
      await using topic = await createTestTopic(1);
      const publisher = testPublisher(topic.brokers);
      const outcome = await publisher.publish(request(topic.name, ['1'], { partition: 9 }));
      const reasons = {
        kafkajs: 'not acknowledged',
        platformatic: 'the topic has no partition 9',
      };
      expect(outcome).toEqual({ kind: 'unknown', reason: reasons[client] });
      await publisher.close();
    });

    test('leaves no timer running on an idle connection', async () => {
      await using topic = await createTestTopic(1);
      const publisher = testPublisher(topic.brokers);
      const timers = vi.spyOn(globalThis, 'setTimeout');
      await publisher.publish(request(topic.name, ['1']));
      const delaysMs = timers.mock.calls.map(([, delayMs]) => delayMs ?? 0);
      timers.mockRestore();
      // Unpatched, kafkajs sets one with a negative delay after each response, and again every millisecond.
      expect(delaysMs.filter((delayMs) => delayMs < 0)).toEqual([]);
      await publisher.close();
    });

    test('sends to several partitions at the same time', async () => {
      await using topic = await createTestTopic(4);
      const publisher = testPublisher(topic.brokers);
      const partitions = [0, 1, 2, 3];
      const outcomes = await Promise.all(
        partitions.map((partition) =>
          publisher.publish(request(topic.name, [String(partition)], { partition })),
        ),
      );
      expect(outcomes.map(({ kind }) => kind)).toEqual(partitions.map(() => 'acked'));
      await publisher.close();
    });

    test('goes on after an abort, on new connections', async () => {
      await using topic = await createTestTopic(1);
      const publisher = testPublisher(topic.brokers);
      await publisher.publish(request(topic.name, ['1']));
      publisher.abort();
      await expect(publisher.publish(request(topic.name, ['2']))).resolves.toEqual({
        kind: 'acked',
      });
      await publisher.close();
    });
  },
);

describe.skipIf(skipReason('kafka')).each(publishers)(
  '$client with a broker that fails',
  ({ create, testPublisher }) => {
    let kafka: Awaited<ReturnType<typeof startFaultyKafka>>;
    const topic = `test-${randomUUID()}`;

    beforeAll(async () => {
      kafka = await startFaultyKafka();
      const publisher = testPublisher(kafka.brokers);
      await publisher.openTopic(topic);
      await publisher.close();
    });
    afterAll(() => kafka[Symbol.asyncDispose]());

    test('a batch without a response in time is unknown, and is not sent again on its own', async () => {
      const publisher = testPublisher(kafka.brokers);
      await publisher.publish(request(topic, ['first']));
      await kafka.pause();
      const outcome = await publisher.publish(request(topic, ['frozen'], { timeoutMs: 300 }));
      expect(outcome).toEqual({ kind: 'unknown', reason: 'no response within 300 ms' });
      await kafka.resume();
      await untilLed(topic, kafka.brokers);
      await expect(publisher.publish(request(topic, ['next']))).resolves.toEqual({ kind: 'acked' });
      const messages = await readTopic(topic, {
        brokers: kafka.brokers,
        until: (all) => all.some(({ value }) => value === 'next'),
      });
      // The frozen batch may have arrived. It must not be there twice, and the next one must not be lost.
      const frozen = messages.filter(({ value }) => value === 'frozen');
      expect(frozen.length).toBeLessThanOrEqual(1);
      await publisher.close();
    });

    test('a batch after one of unknown outcome is not dropped as its duplicate', async () => {
      const publisher = create({
        connection: kafka,
        newTopic: { partitions: 1, replication: 1 },
        requestTimeoutMs: 1_000,
        log: quiet,
      });
      await publisher.publish(request(topic, ['warm']));
      await kafka.pause();
      const outcome = await publisher.publish(request(topic, ['no response']));
      expect(outcome.kind).toBe('unknown');
      await kafka.resume(); // now the broker takes what was sent to it, under a number that is known here
      await untilLed(topic, kafka.brokers);
      const other = await publisher.publish(request(topic, ['other']));
      const last = await publisher.publish(request(topic, ['last']));
      expect([other.kind, last.kind]).toEqual(['acked', 'acked']);
      const messages = await readTopic(topic, {
        brokers: kafka.brokers,
        until: (all) => all.some(({ value }) => value === 'last'),
      });
      expect(messages.map(({ value }) => value)).toContain('other');
      await publisher.close();
    });

    test('batches are unknown while the broker is down, and acknowledged once it is back', async () => {
      const publisher = testPublisher(kafka.brokers);
      await publisher.publish(request(topic, ['before']));
      await kafka.stop();
      const away = await publisher.publish(request(topic, ['away']));
      expect(away.kind).toBe('unknown');
      await expect(publisher.openTopic(topic)).rejects.toThrow(/connect|ECONNREFUSED/i);
      await kafka.start();
      await untilLed(topic, kafka.brokers);
      await expect(publisher.publish(request(topic, ['back']))).resolves.toEqual({ kind: 'acked' });
      await publisher.close();
    });
  },
);

/**
 * Recorded from a Kafka 4.3 of two brokers after one was killed: the metadata of all topics, in version 6.
 * Partition 1 of `order.events` and partition 1 of `another.team` have no leader.
 */
const RECORDED = Buffer.from(
  [
    'AAAAAAAAAAEAAAABAAkxMjcuMC4wLjEAAG+k//8AFkNjN0hNQ1FhSEcyNXJ1alp5cmtUaFEAAAABAAAAAwAAAAxv',
    'cmRlci5ldmVudHMAAAAAAwAAAAAAAAAAAAEAAAABAAAAAQAAAAEAAAABAAAAAAAFAAAAAf////8AAAABAAAAAgAA',
    'AAAAAAABAAAAAgAAAAAAAgAAAAEAAAABAAAAAQAAAAEAAAABAAAAAAAAAAptaW5lLndob2xlAAAAAAIAAAAAAAAA',
    'AAABAAAAAQAAAAEAAAABAAAAAQAAAAAAAAAAAAEAAAABAAAAAQAAAAEAAAABAAAAAQAAAAAAAAAMYW5vdGhlci50',
    'ZWFtAAAAAAIAAAAAAAAAAAABAAAAAQAAAAEAAAABAAAAAQAAAAAABQAAAAH/////AAAAAQAAAAIAAAAAAAAAAQAA',
    'AAI=',
  ].join(''),
  'base64',
);

const responseOf = (version: string) => metadata.protocol({ version })({ topics: [] }).response;

describe('topic metadata', () => {
  test('is no error when partitions have no leader', async () => {
    const { decode, parse } = responseOf('6');
    const { topicMetadata } = await parse(await decode(RECORDED));
    expect(topicMetadata).toMatchObject([
      { topic: 'order.events', partitionMetadata: [{ leader: 1 }, { leader: -1 }, { leader: 1 }] },
      { topic: 'mine.whole', partitionMetadata: [{ leader: 1 }, { leader: 1 }] },
      { topic: 'another.team', partitionMetadata: [{ leader: 1 }, { leader: -1 }] },
    ]);
  });

  test.each(metadata.versions)('is checked like that in version %s too', async (version) => {
    const { parse } = responseOf(version);
    const topic = {
      topicErrorCode: 0,
      topic: 'order.events',
      partitionMetadata: [{ partitionErrorCode: 5, partitionId: 0, leader: -1 }],
    };
    const response = { topicMetadata: [topic] };
    await expect(parse(response)).resolves.toBe(response);
    const unknownTopic = { ...topic, topicErrorCode: 3 };
    await expect(parse({ topicMetadata: [unknownTopic] })).rejects.toMatchObject({
      type: 'UNKNOWN_TOPIC_OR_PARTITION',
    });
  });
});

describe.skipIf(skipReason('kafka'))('a broker', () => {
  test('may be named by an IPv6 address', async () => {
    await using topic = await createTestTopic();
    const [host = '', port = ''] = topic.brokers[0]?.split(':') ?? [];
    const server = createServer((socket) => {
      const upstream = connect(Number(port), host);
      for (const each of [socket, upstream]) each.on('error', () => {});
      socket.pipe(upstream).pipe(socket);
    }).listen(0, '::1');
    await once(server, 'listening');
    const address = server.address();
    const listening = typeof address === 'object' ? address?.port : undefined;
    const { kafka, destroy } = createKafkaClient(
      { brokers: [`[::1]:${listening}`] },
      { debug: () => {} },
    );
    const admin = kafka.admin();
    await admin.connect();
    expect(await admin.listTopics()).toContain(topic.name);
    destroy();
    server.close();
  });
});

/** More than the buffers between two sockets hold. */
const BYTES = 50_000_000;

/** A server, and its side of the next connection. */
async function listen() {
  const peer = Promise.withResolvers<Socket>();
  const server = createServer({ pauseOnConnect: true }, peer.resolve).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  return {
    peer: peer.promise,
    target: { host: '127.0.0.1', port, ssl: {}, onConnect: () => {} },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

describe('destroying connections', () => {
  test('discards what was not sent, ends every socket with an error and opens no other', async () => {
    await using server = await listen();
    const connections = createConnections({});
    const socket = connections.open(server.target);
    const peer = await server.peer;
    socket.write(Buffer.alloc(BYTES));
    const failed = once(socket, 'error');
    connections.destroy();
    expect(String(await failed)).toContain('the connection was cut');
    const closed = once(peer, 'close');
    peer.on('error', () => {}).resume();
    await closed;
    expect(peer.bytesRead).toBeLessThan(BYTES);
    expect(() => connections.open(server.target)).toThrow('the connection was cut');
  });

  test('does the same with @platformatic/kafka, and ends what waits', async () => {
    await using server = await listen();
    const { host, port } = server.target;
    const brokers = createBrokers({ brokers: [`${host}:${port}`] }, TIMEOUT_MS, 0);
    const { socket } = await brokers.connectTo({ host, port });
    const peer = await server.peer;
    socket.write(Buffer.alloc(BYTES));
    const asking = brokers.ask((broker) => metadataV7.api.async(broker, []));
    await using tlsServer = await listen();
    const secured = createBrokers({ brokers: [], tls: {} }, TIMEOUT_MS, 0);
    const connecting = secured.connectTo(tlsServer.target); // gets no handshake
    const tlsPeer = await tlsServer.peer;
    secured.destroy();
    brokers.destroy();
    const ended = await Promise.allSettled([asking, connecting]);
    expect(ended.map((each) => each.status === 'rejected' && String(each.reason))).toEqual([
      expect.stringContaining('Connection closed'),
      expect.stringContaining('Connection closed'),
    ]);
    tlsPeer.destroy();
    const closed = once(peer, 'close');
    peer.on('error', () => {}).resume();
    await closed;
    expect(peer.bytesRead).toBeLessThan(BYTES);
    await expect(brokers.connectTo({ host, port })).rejects.toThrow('the connection was cut');
  });
});

describe('a port that accepts connections and says nothing', () => {
  test('fails the TLS handshake after a while', async () => {
    await using server = await listen();
    const connections = createConnections({ tls: {} });
    const [error] = await once(connections.open(server.target), 'error');
    expect(String(error)).toBe('Error: no TLS handshake within 2500 ms');
    expect(connections.lastFault()).toBe(error);
    (await server.peer).destroy();
  });
});

describe('a password', () => {
  test('is never sent readable to an address that a broker on this machine advertises', async () => {
    const sasl = { mechanism: 'plain', username: 'orders', password: 'secret' } as const;
    const target = { host: 'kafka.example.com', port: 9092, ssl: {}, onConnect: () => {} };
    const refusal = /readable on the way to kafka.example.com: set KAFKA_TLS=on/;
    expect(() => createConnections({ sasl }).open(target)).toThrow(refusal);
    const brokers = createBrokers({ brokers: [], sasl }, 1_000, 0);
    await expect(brokers.connectTo(target)).rejects.toThrow(refusal);
  });
});
