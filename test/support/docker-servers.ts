import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { GenericContainer, getContainerRuntimeClient, Wait } from 'testcontainers';
import type { StartedTestContainer } from 'testcontainers';
import { kafkaProperties, kafkaResponds, NODE_SETTINGS } from '#dev/local-kafka.ts';
import type { KafkaExtras } from '#dev/local-kafka.ts';
import { freePort } from '#dev/ports.ts';
import { eventually } from './poll.ts';
import { POSTGRES_SETTINGS } from './test-servers.ts';
import type { TestServer } from './test-servers.ts';

/** The next run removes what a killed run left behind, so the reaper's container is not needed. */
process.env['TESTCONTAINERS_RYUK_DISABLED'] = 'true';
export const IMAGES = { postgres: 'postgres:18', kafka: 'apache/kafka:4.3.1' } as const;
/** Every container of a run has it. */
const RUN_LABEL = 'order-service.test-run';
/** A bound for what hangs, on machines of any pace. */
const START_MS_MAX = 180_000;

/**
 * Where the ports of the containers are. It is not this machine's loopback if the tests run in a container, or
 * Docker on another machine. `TESTCONTAINERS_HOST_OVERRIDE=172.17.0.1` tries that out.
 */
export async function dockerHost(): Promise<string> {
  return (await getContainerRuntimeClient()).info.containerRuntime.host;
}

export async function startDockerPostgres(run: string): Promise<TestServer> {
  const port = await freePort();
  const settings = Object.entries(POSTGRES_SETTINGS).map(([name, value]) => `-c${name}=${value}`);
  const container = await new GenericContainer(IMAGES.postgres)
    .withEnvironment({ POSTGRES_PASSWORD: 'postgres' })
    .withCommand(['postgres', ...settings])
    .withExposedPorts({ container: 5432, host: port })
    .withLabels({ [RUN_LABEL]: run })
    .withStartupTimeout(START_MS_MAX)
    // The first time it is ready, it still prepares the database and has no port open.
    .withWaitStrategy(Wait.forLogMessage(/ready to accept connections/, 2))
    .start();
  const url = `postgres://postgres:postgres@${await dockerHost()}:${port}/postgres`;
  return asTestServer(url, container, () => postgresResponds(url));
}

/** The port is chosen before the start, because the broker tells it to its clients. */
export async function startDockerKafka(run: string): Promise<TestServer> {
  const port = await freePort();
  const broker = `${await dockerHost()}:${port}`;
  const nodeSettings = Object.fromEntries(
    Object.entries(NODE_SETTINGS).map(([name, value]) => {
      return [`KAFKA_${name.replaceAll('.', '_').toUpperCase()}`, String(value)];
    }),
  );
  const container = await new GenericContainer(IMAGES.kafka)
    .withEnvironment({
      ...nodeSettings,
      KAFKA_LISTENERS: 'PLAINTEXT://:9092,CONTROLLER://:9093,INTERNAL://:9094',
      KAFKA_ADVERTISED_LISTENERS: `PLAINTEXT://${broker},INTERNAL://localhost:9094`,
      KAFKA_LISTENER_SECURITY_PROTOCOL_MAP:
        'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT',
      KAFKA_INTER_BROKER_LISTENER_NAME: 'INTERNAL',
      KAFKA_CONTROLLER_QUORUM_VOTERS: '1@localhost:9093',
    })
    .withExposedPorts({ container: 9092, host: port })
    .withLabels({ [RUN_LABEL]: run })
    .withStartupTimeout(START_MS_MAX)
    .withWaitStrategy(Wait.forLogMessage(/Kafka Server started/))
    .start();
  return asTestServer(broker, container, () => kafkaResponds(broker));
}

/** Runs Java by itself, because the image's own script makes no users and expects files of keys. */
export async function startDockerKafkaWith(run: string, extras: KafkaExtras): Promise<TestServer> {
  const [port, controllerPort] = [await freePort(), await freePort()];
  const host = await dockerHost();
  const content = kafkaProperties({ bind: '', host, port, controllerPort }, extras);
  const java = `java -Xmx512m -cp '/opt/kafka/libs/*'`;
  const options = extras.formatOptions.map((option) => `'${option}'`).join(' ');
  const format = `${java} kafka.tools.StorageTool format --ignore-formatted --cluster-id=test`;
  const script = `cd /tmp && ${format} --config server.properties ${options} && echo formatted &&
    exec ${java} kafka.Kafka server.properties`;
  const ports = [port, ...extras.listeners.map((listener) => listener.port)];
  const container = await new GenericContainer(IMAGES.kafka)
    .withCopyContentToContainer([{ content, target: '/tmp/server.properties', mode: 0o644 }])
    .withEntrypoint(['sh', '-c', script])
    .withExposedPorts(...ports.map((each) => ({ container: each, host: each })))
    .withLabels({ [RUN_LABEL]: run })
    .withStartupTimeout(START_MS_MAX)
    .withWaitStrategy(Wait.forLogMessage(/formatted/))
    .start();
  const broker = `${host}:${port}`;
  return asTestServer(broker, container, () => kafkaResponds(broker));
}

/** Removes the containers of the selected runs. */
export async function removeContainers(isWanted: (run: string) => boolean): Promise<void> {
  const docker = promisify(execFile);
  const format = `{{.ID}} {{.Label "${RUN_LABEL}"}}`;
  const filter = `label=${RUN_LABEL}`;
  const { stdout } = await docker('docker', ['ps', '-a', '--filter', filter, '--format', format]);
  const ids = stdout.split('\n').flatMap((line) => {
    const [id, run] = line.split(' ');
    return id && run && isWanted(run) ? [id] : [];
  });
  if (ids.length > 0) await docker('docker', ['rm', '--force', '--volumes', ...ids]);
}

async function asTestServer(
  address: string,
  started: StartedTestContainer,
  responds: () => Promise<boolean>,
): Promise<TestServer> {
  const client = await getContainerRuntimeClient();
  const container = client.container.getById(started.getId());
  const untilItResponds = async () => {
    await eventually(responds, { withinMs: START_MS_MAX, everyMs: 100 });
  };
  await untilItResponds();
  return {
    address,
    stop: () => container.stop({ t: 15 }),
    kill: async () => {
      await container.kill({ signal: 'SIGKILL' });
      await container.wait();
    },
    start: async () => {
      await container.start();
      await untilItResponds();
    },
    pause: () => container.pause(),
    resume: () => container.unpause(),
    remove: async () => {
      await container.remove({ force: true, v: true });
    },
  };
}

async function postgresResponds(url: string): Promise<boolean> {
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
