import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import metadata from 'kafkajs/src/protocol/requests/metadata/index.js';
import { describe, expect, test } from 'vitest';
// Mends kafkajs as it is loaded.
import { createKafkaClient } from '#src/outbox/kafka-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic } from '#test/support/kafka.ts';

/**
 * What a Kafka 4.3 of two brokers, one of them killed, says of all its topics, in version 6: partition 1
 * of `order.events` and of `another.team` have no leader.
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

describe('what kafkajs hears of topics', () => {
  test('is not an error because partitions have no leader', async () => {
    const { decode, parse } = responseOf('6');
    const { topicMetadata } = await parse(await decode(RECORDED));
    expect(topicMetadata).toMatchObject([
      { topic: 'order.events', partitionMetadata: [{ leader: 1 }, { leader: -1 }, { leader: 1 }] },
      { topic: 'mine.whole', partitionMetadata: [{ leader: 1 }, { leader: 1 }] },
      { topic: 'another.team', partitionMetadata: [{ leader: 1 }, { leader: -1 }] },
    ]);
  });

  test.each(metadata.versions)('is judged so in version %s too', async (version) => {
    const { parse } = responseOf(version);
    const topic = {
      topicErrorCode: 0,
      topic: 'order.events',
      partitionMetadata: [{ partitionErrorCode: 5, partitionId: 0, leader: -1 }],
    };
    const answer = { topicMetadata: [topic] };
    await expect(parse(answer)).resolves.toBe(answer);
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
    const { kafka, cut } = createKafkaClient([`[::1]:${listening}`], { debug: () => {} });
    const admin = kafka.admin();
    await admin.connect();
    expect(await admin.listTopics()).toContain(topic.name);
    cut();
    server.close();
  });
});
