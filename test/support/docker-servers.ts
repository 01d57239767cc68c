import { GenericContainer, getContainerRuntimeClient, Wait } from 'testcontainers';
import type { StartedTestContainer } from 'testcontainers';
import { Client } from 'pg';
import { kafkaResponds } from '#dev/local-kafka.ts';
import { freePort } from '#dev/ports.ts';
import { eventually } from './poll.ts';
import { RUN_LABEL } from './test-runs.ts';
import { IMAGES, POSTGRES_SETTINGS } from './test-server.ts';
import type { TestServer } from './test-server.ts';

/** What a killed run leaves behind the next one removes, so there is no need for one more container. */
process.env['TESTCONTAINERS_RYUK_DISABLED'] = 'true';
const START_MS_MAX = 60_000;

export async function startDockerPostgres(run: string): Promise<TestServer> {
  const port = await freePort();
  const settings = Object.entries(POSTGRES_SETTINGS).map(([name, value]) => `-c${name}=${value}`);
  const container = await new GenericContainer(IMAGES.postgres)
    .withEnvironment({ POSTGRES_PASSWORD: 'postgres' })
    .withCommand(['postgres', ...settings])
    .withExposedPorts({ container: 5432, host: port })
    .withLabels({ [RUN_LABEL]: run })
    // The first time it is ready it still prepares the database, with no port open.
    .withWaitStrategy(Wait.forLogMessage(/ready to accept connections/, 2))
    .start();
  const url = `postgres://postgres:postgres@${container.getHost()}:${port}/postgres`;
  return asTestServer(url, container, () => postgresAnswers(url));
}

/** The port is chosen before the start, so that the broker can tell its clients of it. */
export async function startDockerKafka(run: string): Promise<TestServer> {
  const port = await freePort();
  const client = await getContainerRuntimeClient();
  const broker = `${client.info.containerRuntime.host}:${port}`;
  const container = await new GenericContainer(IMAGES.kafka)
    .withEnvironment({
      KAFKA_NODE_ID: '1',
      KAFKA_PROCESS_ROLES: 'broker,controller',
      KAFKA_LISTENERS: 'PLAINTEXT://:9092,CONTROLLER://:9093,INTERNAL://:9094',
      KAFKA_ADVERTISED_LISTENERS: `PLAINTEXT://${broker},INTERNAL://localhost:9094`,
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP:
        'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT',
      KAFKA_INTER_BROKER_LISTENER_NAME: 'INTERNAL',
      KAFKA_CONTROLLER_LISTENER_NAMES: 'CONTROLLER',
      KAFKA_CONTROLLER_QUORUM_VOTERS: '1@localhost:9093',
      KAFKA_AUTO_CREATE_TOPICS_ENABLE: 'false',
      KAFKA_BROKER_HEARTBEAT_INTERVAL_MS: '400',
      KAFKA_BROKER_SESSION_TIMEOUT_MS: '2000',
      KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR: '1',
      KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS: '1',
      KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR: '1',
      KAFKA_TRANSACTION_STATE_LOG_MIN_ISR: '1',
      KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS: '1',
      KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR: '1',
      KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR: '1',
      KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS: '0',
    })
    .withExposedPorts({ container: 9092, host: port })
    .withLabels({ [RUN_LABEL]: run })
    .withWaitStrategy(Wait.forLogMessage(/Kafka Server started/))
    .start();
  return asTestServer(broker, container, () => kafkaResponds(broker));
}

async function asTestServer(
  address: string,
  started: StartedTestContainer,
  answers: () => Promise<boolean>,
): Promise<TestServer> {
  const client = await getContainerRuntimeClient();
  const container = client.container.getById(started.getId());
  const untilItAnswers = async () => {
    await eventually(answers, { withinMs: START_MS_MAX, everyMs: 100 });
  };
  await untilItAnswers();
  return {
    address,
    stop: () => container.stop({ t: 15 }),
    kill: async () => {
      await container.kill({ signal: 'SIGKILL' });
      await container.wait();
    },
    start: async () => {
      await container.start();
      await untilItAnswers();
    },
    pause: () => container.pause(),
    resume: () => container.unpause(),
    remove: async () => {
      await container.remove({ force: true, v: true });
    },
  };
}

async function postgresAnswers(url: string): Promise<boolean> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on('error', () => {});
  try {
    await client.connect();
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}
