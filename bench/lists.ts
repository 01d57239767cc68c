import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Pool } from 'pg';
import { startPostgres } from '#dev/embedded-postgres.ts';
import { createDatabase } from '#src/database/database.ts';
import { migrate } from '#src/database/migrate.ts';
import { listQuery } from '#src/orders/order-lists.ts';
import type { OrderFilter, Selection } from '#src/orders/order-lists.ts';
import {
  CUSTOMERS,
  explainPage,
  insertHostileOrders,
  OFFERED,
} from '#test/support/hostile-orders.ts';

/*
 * Every list of GET /v1/orders on many orders with a hostile distribution: milliseconds for a page at its start, in
 * its middle, at its end and in an hour of its middle, in a session with the settings of the service. Fails if a plan
 * has a sequential scan, reads many rows more than the page, or sorts many.
 *
 *   node bench/lists.ts [--orders 3000000] [--folder <folder>]
 *
 * --folder: keeps the database there, and uses it again.
 */
const { values } = parseArgs({
  options: {
    orders: { type: 'string', default: '3000000' },
    folder: { type: 'string' },
  },
});
const ROWS = 26;
const TIMES = 5;

const folder = values.folder ?? (await mkdtemp(join(tmpdir(), 'lists-bench-')));
const postgres = await startPostgres({
  folder: join(folder, 'postgres'),
  database: 'orders',
  log: () => {},
  settings: { shared_buffers: '1GB', max_wal_size: '8GB' },
});
const owner = new Pool({ connectionString: postgres.url, max: 1 });
const service = createDatabase(postgres.url, { writersMax: 1, poolMax: 2 }, console.error);
let isFaulty = false;
try {
  await migrate(postgres.url);
  await fill(Number(values.orders));
  await printSizes();
  console.log('| list | customer | orders | start | middle | end | an hour | plan |');
  console.log('|---|---|---|---|---|---|---|---|');
  for (const filter of OFFERED) for (const customer of CUSTOMERS) await measure(filter, customer);
} finally {
  await service.close();
  await owner.end();
  await postgres.stop();
  if (values.folder === undefined) await rm(folder, { recursive: true, force: true });
}
if (isFaulty) process.exitCode = 1;

async function fill(orders: number): Promise<void> {
  const { rows } = await owner.query('select from orders_summary limit 1');
  if (rows.length > 0) return;
  const indexes = await owner.query<{ name: string; text: string }>(
    `select indexname as name, indexdef as text from pg_indexes
     where tablename in ('orders_summary', 'order_skus') and indexname not like '%_pkey'`,
  );
  for (const { name } of indexes.rows) await owner.query(`drop index ${name}`);
  await insertHostileOrders(async (sql, params) => (await owner.query(sql, params)).rows, orders);
  for (const { text } of indexes.rows) await owner.query(text);
  for (const table of ['orders_summary', 'order_skus', 'saga_work']) {
    await owner.query(`vacuum analyze ${table}`);
  }
}

async function printSizes(): Promise<void> {
  const { rows } = await owner.query<{ name: string; size: string }>(
    `select relname as name, pg_size_pretty(pg_relation_size(oid)) as size from pg_class
     where relname ~ '^(orders_summary|order_skus|saga_work)' order by relname`,
  );
  for (const { name, size } of rows) console.log(`${name}: ${size}`);
}

async function measure(filter: OrderFilter, customer: string | undefined): Promise<void> {
  const base = { filter, customer, after: undefined, rowsMax: ROWS };
  const { orders, middle, end } = await positions(base);
  const hour = middle && {
    placedFrom: middle.placedAt,
    placedTo: new Date(Date.parse(middle.placedAt) + 3_600_000).toISOString(),
  };
  const pages = [
    base,
    { ...base, after: middle },
    { ...base, after: end },
    { ...base, filter: { ...filter, ...hour } },
  ];
  const cells: string[] = [];
  const nodes = new Set<string>();
  for (const page of pages) {
    cells.push(await timeOf(page));
    const plan = await explainPage(service.reads, page);
    for (const node of plan.nodes) nodes.add(node);
    for (const fault of plan.faults) {
      isFaulty = true;
      console.log(`FAULT: ${fault}: ${JSON.stringify(page)}`);
    }
  }
  const name = Object.entries(filter).map(([key, value]) => `${key}=${value}`);
  console.log(
    `| ${name.join(' ') || 'all'} | ${customer ?? ''} | ${orders} | ${cells.join(' | ')} | ${[...nodes].join(', ')} |`,
  );
}

type Position = Selection['after'];

/** How many orders the list has, and two of them: in the middle, and shortly before the end. */
async function positions(base: Selection) {
  const { sql, bindings } = listQuery(service.reads.knex, { ...base, rowsMax: 2 ** 31 - 1 })
    .toSQL()
    .toNative();
  const { rows } = await owner.query<{ at: Date; id: string; n: number; total: number }>(
    `select * from (
       select placed_at as at, order_id as id, count(*) over () as total,
         row_number() over (order by placed_at desc, order_id desc) as n
       from (${sql}) as list) as numbered
     where n in (1 + total / 2, greatest(1, total - ${ROWS / 2}))`,
    [...bindings],
  );
  const [middle, end = middle] = rows.map(({ at, id }): Position => ({
    placedAt: at.toISOString(),
    orderId: id,
  }));
  return { orders: rows[0]?.total ?? 0, middle, end };
}

/** The median, and the first time if it is longer than that by far. */
async function timeOf(page: Selection): Promise<string> {
  const times: number[] = [];
  for (let time = 0; time < TIMES; time += 1) {
    const startedAt = performance.now();
    await service.reads.rows(listQuery(service.reads.knex, page));
    times.push(performance.now() - startedAt);
  }
  const [first = 0] = times;
  const median = times.toSorted((a, b) => a - b)[Math.floor(TIMES / 2)] ?? 0;
  return first > 3 * median ? `${median.toFixed(1)} (${first.toFixed(0)})` : median.toFixed(1);
}
