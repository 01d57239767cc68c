import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { KafkaMessage } from 'kafkajs';
import { readKafkaConfig } from '#src/config.ts';
import { kafkaConnection } from '#src/outbox/kafka-connection.ts';
import { explainKafkaError } from '#src/outbox/kafka-errors.ts';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { printable } from '#src/printable.ts';
import { folders } from './folders.ts';

const USAGE = `npm run tail                     all events, from the first one
npm run tail -- --new            only events that arrive from now on
npm run tail -- --order <id>     the events of one order`;

const options = readOptions();
const settings = readSettings();
const { KAFKA_TOPIC: topic } = settings;
const given = kafkaConnection(settings);
const connection = given.brokers.length > 0 ? given : { brokers: await localBrokers() };
const { brokers } = connection;
if (brokers.length === 0) {
  giveUp('There is no Kafka to read from. Run npm start first, or set KAFKA_BROKERS=host:port.');
}
const { kafka, destroy } = createKafkaClient(connection, { debug: () => {} });

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, leave);
process.stdout.once('error', leave); // as of `| head`
await requireTopic();
await follow();

function readOptions() {
  try {
    const { values } = parseArgs({
      options: { new: { type: 'boolean', default: false }, order: { type: 'string' } },
    });
    return values;
  } catch (error) {
    return giveUp(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  }
}

function readSettings() {
  try {
    return readKafkaConfig(process.env);
  } catch (error) {
    return giveUp(error instanceof Error ? error.message : String(error));
  }
}

/** The broker of `npm start`, if it has started one. */
async function localBrokers(): Promise<string[]> {
  const port = await readFile(join(folders.kafka, 'port'), 'utf8').catch(() => '');
  return port ? [`127.0.0.1:${port}`] : [];
}

async function requireTopic(): Promise<void> {
  const admin = kafka.admin();
  try {
    await admin.connect();
    const topics = await admin.listTopics();
    if (!topics.includes(topic)) {
      giveUp(
        `The topic ${topic} does not exist at ${brokers.join(',')}. The service creates it when it starts.`,
      );
    }
  } catch (error) {
    giveUp(
      `Cannot read from Kafka at ${brokers.join(',')}: ${explainKafkaError(error, connection)}. ` +
        'Is npm start or docker compose running?',
    );
  }
  await admin.disconnect();
}

async function follow(): Promise<void> {
  // A consumer group of its own that never commits reads all events and affects no other consumer.
  const consumer = kafka.consumer({ groupId: `tail-${randomUUID()}`, maxWaitTimeInMs: 500 });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: !options.new });
  consumer.on(consumer.events.GROUP_JOIN, () => {
    console.error(`Reading ${topic} at ${brokers.join(',')}; Ctrl-C ends it.`);
  });
  // kafkajs gives up by itself on some errors, also if the brokers are not ready for groups for a second.
  consumer.on(consumer.events.CRASH, ({ payload: { error, restart } }) => {
    if (restart) return;
    const reason = explainKafkaError(error, connection);
    giveUp(`Cannot read from Kafka at ${brokers.join(',')} any more: ${reason}. Try again.`);
  });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      const line = lineOf(partition, message);
      if (!options.order || message.key?.toString() === options.order) console.log(line);
    },
  });
}

/** Partition and offset, key, type, version, value. Any of them may contain text from a caller. */
function lineOf(partition: number, { offset, key, headers, value }: KafkaMessage): string {
  const place = `${partition}/${offset}`.padEnd(7);
  const type = String(headers?.['ce_type'] ?? '-').padEnd(16);
  const sequence = String(headers?.['ce_sequence'] ?? '-');
  const id = key?.toString() ?? '-';
  return printable(`${place} ${id}  ${type} ${sequence}  ${value?.toString() ?? '(none)'}`);
}

function leave(): never {
  destroy();
  process.exit(0);
}

function giveUp(text: string): never {
  console.error(text);
  process.exit(1);
}
