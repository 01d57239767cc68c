import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text as textOf } from 'node:stream/consumers';
import { Partitioners } from 'kafkajs';
import { describe, expect, test } from 'vitest';
import { folders } from '#dev/folders.ts';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { startKafkaProxy } from '#test/support/kafka-proxy.ts';
import { createTestTopic } from '#test/support/kafka.ts';

describe.skipIf(skipReason('kafka'))('npm run tail', () => {
  test('prints the events of one order, a line each with nothing for the terminal to obey, and ends on Ctrl-C', async () => {
    await using topic = await createTestTopic();
    await send(topic, [
      ['order-1', 'order.placed.v1', '0000000001'],
      ['order-2', 'order.placed.v1', '0000000001'],
      ['order-1', 'order.cancelled.v1\u001b[2J', '0000000002\u202e', '\u009b2J\u2066'],
    ]);
    const tail = startTail(
      { KAFKA_BROKERS: ` ${topic.brokers.join(', ')} ,`, KAFKA_TOPIC: topic.name },
      ['--order', 'order-1'],
    );
    tail.stderr.pipe(process.stderr);
    const lines: string[] = [];
    for await (const line of createInterface(tail.stdout)) {
      lines.push(line.replaceAll(/ +/g, ' '));
      if (lines.length === 2) tail.kill('SIGINT');
    }
    expect(lines).toEqual([
      '0/0 order-1 order.placed.v1 0000000001 {"n":0,"text":""}',
      '0/2 order-1 order.cancelled.v1\\u001b[2J 0000000002\\u202e {"n":2,"text":"\\u009b2J\\u2066"}',
    ]);
    const [code] = tail.exitCode === null ? await once(tail, 'exit') : [tail.exitCode];
    expect(code).toBe(0);
  });

  test('ends with the reason when kafkajs gives up', async () => {
    await using topic = await createTestTopic();
    await using proxy = await startKafkaProxy(topic.brokers[0] ?? '', topic.name);
    proxy.hideCoordinator();
    const tail = startTail({ KAFKA_BROKERS: proxy.brokers.join(), KAFKA_TOPIC: topic.name }, []);
    const ended = once(tail, 'exit');
    expect(await textOf(tail.stderr)).toMatch(
      /^Cannot read from Kafka at .* any more: .*oordinator/,
    );
    expect(await ended).toEqual([1, null]);
  });
});

function startTail(env: Readonly<Record<string, string>>, args: readonly string[]) {
  return spawn(process.execPath, [join(folders.root, 'dev/tail.ts'), ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

async function send(
  topic: Readonly<{ name: string; brokers: string[] }>,
  messages: readonly (readonly [key: string, type: string, sequence: string, text?: string])[],
): Promise<void> {
  const { kafka } = createKafkaClient(topic, { debug: () => {} });
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  await producer.send({
    topic: topic.name,
    messages: messages.map(([key, type, sequence, text = ''], n) => ({
      key,
      value: JSON.stringify({ n, text }),
      headers: { ce_type: type, ce_sequence: sequence },
    })),
  });
  await producer.disconnect();
}
