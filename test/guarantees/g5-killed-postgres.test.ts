import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { checkHistory } from '#test/support/checker.ts';
import { startFaultyPostgres } from '#test/support/faulty-servers.ts';
import { skipReason } from '#test/support/infra.ts';
import { createTestTopic, readTopic } from '#test/support/kafka.ts';
import { startLoad } from '#test/support/load.ts';
import { eventually } from '#test/support/poll.ts';
import { createRandom } from '#test/support/random.ts';
import { startService } from '#test/support/service.ts';
import { faultsOf, isComplete } from '../outbox/delivery.ts';

const KILLS = 4;
const ACKS_MAX = 150;
const JITTER_MS_MAX = 15;

describe.skipIf(skipReason('kafka') ?? skipReason('postgres'))('G5 when Postgres dies', () => {
  test('kill -9 of it under load loses no event and keeps the order', async () => {
    const random = createRandom();
    await using postgres = await startFaultyPostgres();
    await using topic = await createTestTopic(3);
    const kafka = { brokers: topic.brokers, env: { KAFKA_TOPIC: topic.name } };
    const options = { databaseUrl: postgres.url, ...kafka };
    await using leader = await startService(options);
    await using standby = await startService(options);
    using load = startLoad([leader.api, standby.api], { clients: 12, random });
    for (let kill = 0; kill < KILLS; kill += 1) {
      await load.acknowledged(1 + random.below(ACKS_MAX));
      await delay(random.below(JITTER_MS_MAX)); // at any moment of a batch, and of a send
      await postgres.kill();
      await postgres.start();
    }
    await load.acknowledged(20);
    await load.stop();
    const streams = await postgres.query<{ id: string; version: number }>(
      'select stream_id as id, max(version) as version from events group by stream_id',
    );
    const expected = new Map(streams.map(({ id, version }) => [id, version]));
    const messages = await readTopic(topic.name, { until: (all) => isComplete(all, expected) });
    expect(faultsOf(messages, expected)).toEqual([]);
    await eventually(async () => (await postgres.query('select from outbox_events')).length === 0);
    expect(await checkHistory(load.recorder.calls, postgres.url, { relay: 'on' })).toEqual([]);
  });
});
