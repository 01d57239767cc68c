import { inject } from 'vitest';
import { startTestKafka } from './test-server.ts';
import type { TestServer } from './test-server.ts';

/** A Kafka of the test's own, to stop, kill and pause. */
export async function startFaultyKafka(): Promise<
  AsyncDisposable & TestServer & Readonly<{ brokers: string[] }>
> {
  const server = await startTestKafka(inject('infra'));
  return { ...server, brokers: [server.address], [Symbol.asyncDispose]: server.remove };
}
