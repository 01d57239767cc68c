import type { InfraMode } from './infra.ts';

/** A Postgres or a Kafka that a test may break and mend; its address and data stay. */
export type TestServer = Readonly<{
  /** Of Postgres the superuser's URL, of Kafka `host:port`. */
  address: string;
  /** An orderly shutdown. */
  stop(): Promise<void>;
  /** `kill -9` */
  kill(): Promise<void>;
  /** After `stop` or `kill`; answers when it serves again. */
  start(): Promise<void>;
  /** Freezes it: connections stay open and nothing answers. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Ends it and deletes its data. */
  remove(): Promise<void>;
}>;

export type ServerSource = Readonly<{ mode: InfraMode; run: string }>;

export const IMAGES = { postgres: 'postgres:18', kafka: 'apache/kafka:4.3.1' } as const;

export const POSTGRES_SETTINGS = {
  /** More than one service needs: test files run side by side. */
  max_connections: '300',
  /** It would come by at a moment of its own: among the sessions that a test counts, or with new plans. */
  autovacuum: 'off',
  max_prepared_transactions: '10',
} as const;

/** Only the source's own packages are loaded: starting Docker's client takes a while. */
export async function startTestPostgres(source: ServerSource): Promise<TestServer> {
  refuseNone(source);
  if (source.mode === 'docker') {
    const { startDockerPostgres } = await import('./docker-servers.ts');
    return startDockerPostgres(source.run);
  }
  const { startEmbeddedPostgres } = await import('./embedded-servers.ts');
  return startEmbeddedPostgres(source.run);
}

export async function startTestKafka(source: ServerSource): Promise<TestServer> {
  refuseNone(source);
  if (source.mode === 'docker') {
    const { startDockerKafka } = await import('./docker-servers.ts');
    return startDockerKafka(source.run);
  }
  const { startEmbeddedKafka } = await import('./embedded-servers.ts');
  return startEmbeddedKafka(source.run);
}

function refuseNone({ mode }: ServerSource): void {
  if (mode === 'none') throw new Error('TEST_INFRA=none starts no server');
}
