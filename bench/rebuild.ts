import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { folders } from '#dev/folders.ts';
import '#src/database/database.ts'; // makes pg read bigint as number
import { migrate } from '#src/database/migrate.ts';

/*
 * Events per second of `npm run projections -- rebuild` and `verify`, on one durable Postgres (fsync on).
 * Each figure is that of the whole command, the start of its process included.
 *
 *   node bench/rebuild.ts [--orders 300000] [--rounds 1] [--checkout <folder>]...
 *
 * --checkout: where the command is run, this project unless it is said. Two checkouts are measured in turns
 * on the same rows.
 */
const { values } = parseArgs({
  options: {
    orders: { type: 'string', default: '300000' },
    rounds: { type: 'string', default: '1' },
    checkout: { type: 'string', multiple: true, default: [folders.root] },
  },
});

const folder = await mkdtemp(join(tmpdir(), 'rebuild-bench-'));
const postgres = await startPostgres({
  folder: join(folder, 'postgres'),
  database: 'orders',
  log: () => {},
  settings: { shared_buffers: '1GB', max_wal_size: '8GB' },
});
const client = new Client({ connectionString: postgres.url });
try {
  await migrate(postgres.url);
  await client.connect();
  const script = await readFile(join(folders.root, 'bench/rebuild.sql'), 'utf8');
  await each(script.replaceAll(':orders', String(Number(values.orders))));
  const { rows } = await client.query<{ total: number }>('select count(*) as total from events');
  const events = rows[0]?.total ?? 0;
  console.log(`${values.orders} orders, ${events} events`);
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    for (const checkout of values.checkout.map((path) => resolve(path))) {
      const measure = async (name: string, command: string) => {
        await each('checkpoint');
        const seconds = await run(checkout, command);
        const perSecond = Math.round(events / seconds);
        console.log(`${checkout}, ${name}: ${perSecond} events/s (${seconds.toFixed(1)} s)`);
      };
      await each('truncate orders_summary');
      await measure('rebuild, no row is there', 'rebuild');
      await each('vacuum analyze orders_summary');
      await measure('rebuild, all rows are right', 'rebuild');
      await measure('verify', 'verify');
      await each(`update orders_summary set currency = '';\nvacuum full analyze orders_summary`);
      await measure('rebuild, all rows are wrong', 'rebuild');
    }
  }
} finally {
  await client.end();
  await postgres.stop();
  await rm(folder, { recursive: true, force: true });
}

/** Statements that may not share a transaction. */
async function each(script: string): Promise<void> {
  for (const statement of script.split(/;\n/)) await client.query(statement);
}

async function run(checkout: string, command: string): Promise<number> {
  const startedAt = performance.now();
  const child = spawn(process.execPath, ['dev/operate.ts', 'projections', command], {
    cwd: checkout,
    env: { ...process.env, DATABASE_URL: postgres.url },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const { promise, resolve: ended } = Promise.withResolvers<number | null>();
  child.on('exit', ended);
  const code = await promise;
  if (code !== 0) throw new Error(`${command} in ${checkout} ended with ${code}`);
  return (performance.now() - startedAt) / 1000;
}
