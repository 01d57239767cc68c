import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { checkHistory } from '#test/support/checker.ts';
import { startFaultyPostgres } from '#test/support/faulty-servers.ts';
import { skipReason } from '#test/support/infra.ts';
import { startLoad } from '#test/support/load.ts';
import type { Load } from '#test/support/load.ts';
import { createRandom } from '#test/support/random.ts';
import type { Random } from '#test/support/random.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * G1: a command that got a 2xx is on disk. It survives `kill -9` of the service and of Postgres.
 */
const CLIENTS = 12;
const ACKS_MAX = 150;
const JITTER_MS_MAX = 15;

describe.skipIf(skipReason('postgres'))('an acknowledged command is there again', () => {
  test('after kill -9 of the service, of Postgres and of both, at any moment', async () => {
    const random = createRandom();
    await using postgres = await startFaultyPostgres();
    await using service = await startService({ databaseUrl: postgres.url });
    using load = startLoad([service.api], { clients: CLIENTS, random });
    const killPostgres = async () => {
      await postgres.kill();
      await postgres.start();
    };
    const killBoth = async () => {
      await Promise.all([service.kill(), postgres.kill()]);
      await postgres.start();
      await service.restart();
    };
    const killService = async () => {
      await service.kill();
      await service.restart();
    };
    const faults = [killService, killPostgres, killService, killBoth];
    for (const fault of [...faults, ...faults]) {
      await anyMoment(load, random);
      await fault();
    }
    await load.acknowledged(CLIENTS);
    await load.stop();

    const { calls } = load.recorder;
    expect(await checkHistory(calls, postgres.url, { relay: 'off' })).toEqual([]);
    await expectServed(service, load);
    // The faults hit commands under way, some before their commit and some after it.
    const lost = calls.filter(({ outcome }) => outcome === 'info');
    const replayed = calls.filter(({ isReplayed }) => isReplayed);
    expect(lost.length).toBeGreaterThan(0);
    expect(replayed.length).toBeGreaterThan(0);
    expect(lost.length).toBeGreaterThan(replayed.length);
  });
});

/** Not at a boundary of the service's own making: that many responses and a few milliseconds later. */
async function anyMoment(load: Load, random: Random): Promise<void> {
  await load.acknowledged(1 + random.below(ACKS_MAX));
  await delay(random.below(JITTER_MS_MAX));
}

/** Every order reads as the last response about it said. */
async function expectServed({ api }: TestService, { recorder }: Load): Promise<void> {
  const newest = new Map(
    recorder.calls
      .flatMap(({ order }) => order ?? [])
      .toSorted((a, b) => a.version - b.version)
      .map((order) => [order.orderId, order]),
  );
  expect(newest.size).toBeGreaterThan(0);
  for (const [orderId, order] of newest) expect(await api.get(orderId)).toEqual(order);
}
