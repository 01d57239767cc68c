import { cp, readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Partitioners } from 'kafkajs';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { TestContext } from 'vitest';
import { folders } from '#dev/folders.ts';
import { findJava, kafkaPrograms } from '#dev/kafka-programs.ts';
import { startKafka } from '#dev/local-kafka.ts';
import { findProcesses, markerOf } from '#dev/processes.ts';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { readTopic } from '#test/support/kafka.ts';
import { createTestFolder } from '#test/support/test-folder.ts';

/** Characters with a meaning in a shell, in Java or in a properties file. */
const UNUSUAL = "Bücher & Co, 50% #1 'x' $HOME =本";
const HOSTILE = {
  LC_ALL: 'C',
  JAVA_TOOL_OPTIONS: '-Xbogus',
  _JAVA_OPTIONS: '-Xbogus',
  JDK_JAVA_OPTIONS: '-Xbogus',
  CLASSPATH: '/nowhere',
  KAFKA_OPTS: '-Xbogus',
  KAFKA_HEAP_OPTS: '-Xbogus',
  LD_LIBRARY_PATH: '/nowhere',
};

afterEach(() => vi.unstubAllEnvs());

describe.skipIf(skipReason('kafka'))('the local Kafka', () => {
  test('is found again by the next start, and has its messages after a kill -9', async (context) => {
    await using folder = await createTestFolder('kafka-');
    const options = { folder: folder.path, cacheFolder: folders.cache, log: () => {} };
    const kafka = await orSkip(startKafka(options), context);
    const broker = await brokerOf(folder.path);
    expect(await startKafka(options)).toMatchObject({ broker: kafka.broker });
    expect(await brokerOf(folder.path)).toBe(broker);
    await send(kafka.broker, 'kept');
    await kafka.kill();
    expect(await brokerOf(folder.path)).toBeUndefined();
    await kafka.start();
    const read = await readTopic('t', { brokers: [kafka.broker], until: (all) => all.length > 0 });
    expect(read).toMatchObject([{ partition: 0, offset: 0, value: 'kept' }]);
  });

  test('works in a folder of any name, whatever the environment says, and writes nowhere else', async (context) => {
    await using parent = await createTestFolder('kafka-');
    const checkout = join(parent.path, UNUSUAL);
    const folder = join(checkout, 'kafka');
    const cacheFolder = join(checkout, 'cache');
    const fetching = kafkaPrograms({ folder, cacheFolder: folders.cache, log: () => {} });
    const fetched = await orSkip(fetching, context);
    await cp(fetched.libraries, join(cacheFolder, basename(fetched.libraries)), {
      recursive: true,
    });
    for (const [name, value] of Object.entries(HOSTILE)) vi.stubEnv(name, value);
    const kafka = await startKafka({ folder, cacheFolder, log: () => {} });
    await send(kafka.broker, 'kept');
    await kafka.stop();
    expect(await brokerOf(folder)).toBeUndefined();
    expect(await readdir(join(folder, 'data'))).toContain('t-0');
    expect(await readdir(parent.path)).toEqual([UNUSUAL]);
    expect((await readdir(checkout)).toSorted()).toEqual(['cache', 'kafka']);
  });

  test('is not tried where Java would take the folder for something else', async () => {
    const java = findJava(['/checkouts/wow!/.data/kafka']);
    await expect(java).rejects.toThrow('move the checkout');
  });
});

/** Skips the test on a machine that cannot run a local Kafka. Its other servers may come from Docker. */
function orSkip<T>(started: Promise<T>, context: TestContext): Promise<T> {
  return started.catch((error: unknown) => context.skip(String(error)));
}

async function brokerOf(folder: string): Promise<number | undefined> {
  const [broker] = await findProcesses(markerOf(folder));
  return broker?.pid;
}

async function send(broker: string, value: string): Promise<void> {
  const { kafka } = createKafkaClient({ brokers: [broker] }, { debug: () => {} });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: 't', numPartitions: 1 }], waitForLeaders: true });
  await admin.disconnect();
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  await producer.send({ topic: 't', acks: -1, messages: [{ value }] });
  await producer.disconnect();
}
