import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { createMetrics } from '#src/http/metrics.ts';
import { eventually } from '#test/support/poll.ts';
import { rawClient, requestText } from './raw-client.ts';
import { THING_ID, sampleServer } from './sample-server.ts';

setFlagsFromString('--expose-gc');
const collectGarbage: unknown = runInNewContext('gc');

function heapMb(): number {
  if (typeof collectGarbage !== 'function') throw new Error('no function gc');
  collectGarbage();
  return process.memoryUsage().heapUsed / 1024 / 1024;
}

const PEERS = 250;
const ROUNDS = 4;
const get = (path: string, client: string) =>
  requestText('GET', path, [`x-forwarded-for: ${client}`]);
const HALF = requestText(
  'POST',
  '/v1/things',
  ['content-type: application/json', 'content-length: 9'],
  '{',
);

describe('peers that break the rules', () => {
  test('leave no memory behind, and normal calls succeed beside them', async () => {
    await using server = sampleServer({
      level: 'silent',
      metrics: createMetrics(),
      rateLimits: { perAddress: 100, perPrincipal: 100, addressesMax: 1_000 },
      trustedProxies: ['127.0.0.1'],
      limits: { connectionsMax: 2_000, lingerTimeoutMs: 100 },
    });
    const port = await server.listen();
    const connectOne = async (first: string): Promise<Socket> => {
      const socket = connect({ port, host: '127.0.0.1' });
      socket.on('error', () => undefined).resume();
      await once(socket, 'connect');
      socket.write(first);
      return socket;
    };
    const abuse = async (round: number) => {
      const peers = await Promise.all(
        Array.from({ length: PEERS }, (_, index) => {
          const path = get('/nope', `10.0.${round}.${index}`);
          return connectOne([HALF, path, path.repeat(100)][index % 3] ?? '');
        }),
      );
      const client = await rawClient(port);
      client.socket.write(requestText('GET', `/v1/things/${THING_ID}`, []));
      expect(await client.until(/\}$/)).toMatch(/^HTTP\/1.1 200 /);
      client.socket.destroy();
      for (const peer of peers) peer.destroy();
      await eventually(
        () =>
          new Promise<boolean>((resolve) => {
            server.app.server.getConnections((_, count) => resolve(count === 0));
          }),
      );
      return heapMb();
    };
    const first = await abuse(0);
    for (let round = 1; round < ROUNDS; round += 1) await abuse(round);
    // Each connection that is kept takes 5 KB.
    expect((await abuse(ROUNDS)) - first).toBeLessThan((ROUNDS * PEERS * 3) / 1024);
  });
});
