import { Client } from 'pg';
import { createRandom } from '#test/support/random.ts';
import type { Random } from '#test/support/random.ts';
import type { Expected } from './delivery.ts';
import { insertEvents, newKeys } from './outbox-fixture.ts';

export type RacingWritersOptions = Readonly<{
  url: string;
  topic: string;
  writers: number;
  /** Keys of each writer. Two writers never share a key, as the stream lock prevents it in the service. */
  keysEach: number;
  versions: number;
  /** Called after every transaction. */
  onCommit?: () => void;
}>;

/**
 * Writes events in transactions that overlap, do not commit in the order of their ids, and sometimes roll back.
 * Resolves to what a relay must publish.
 */
export async function writeInRace(options: RacingWritersOptions): Promise<Expected> {
  const random = createRandom();
  const writers = Array.from({ length: options.writers }, () => writeSome(options, random));
  const keys = (await Promise.all(writers)).flat();
  return new Map(keys.map((key) => [key, options.versions]));
}

async function writeSome(options: RacingWritersOptions, random: Random): Promise<string[]> {
  const client = new Client({ connectionString: options.url });
  await client.connect();
  const written = new Map(newKeys(options.keysEach).map((key) => [key, 0]));
  for (;;) {
    const open = [...written].filter(([, version]) => version < options.versions);
    if (open.length === 0) break;
    const chosen = open.filter(() => random.below(2) === 0).slice(0, 10);
    await client.query('begin');
    const events = chosen.map(([key, version]) => ({ key, version: version + 1 }));
    await insertEvents(client, options.topic, events);
    await client.query('select pg_sleep($1)', [random.below(10) / 1_000]);
    const commits = random.below(10) > 0;
    await client.query(commits ? 'commit' : 'rollback');
    if (commits) for (const { key, version } of events) written.set(key, version);
    options.onCommit?.();
  }
  await client.end();
  return [...written.keys()];
}
