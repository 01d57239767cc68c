import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { listQuery } from '#src/orders/order-lists.ts';
import type { OrderFilter, Selection } from '#src/orders/order-lists.ts';
import type { Query } from './database.ts';

/*
 * Orders that make lists as slow as they can be: long runs in which nearly all orders are alike, one customer with
 * two fifths of all orders, another with three in all, one sku in a third of all orders but in hardly any of the
 * large customer's, one reference that most orders have, and tens of thousands of sagas in each state.
 */

/** The states of an order: status, payment status, shipment progress. Each has a run of its own. */
const LIVES = [
  'pending/unpaid/',
  'pending/refunded/',
  'pending/partially_refunded/',
  'paid/paid/',
  'paid/partially_refunded/partially_shipped',
  'paid/refunded/',
  'shipped/paid/',
  'shipped/paid/delivered',
  'shipped/partially_refunded/returned',
  'shipped/refunded/delivered',
  'cancelled/unpaid/',
  'cancelled/paid/',
  'cancelled/refunded/',
];

const ORDERS = `
  insert into orders_summary (order_id, customer_id, status, currency, item_count, total_cents,
    captured_cents, refunded_cents, placed_at, paid_at, shipped_at, tracking_number, cancelled_at,
    version, external_reference, shipment_progress, skus)
  select uuidv7(age),
    case when n % 5 < 2 then 'large' when n % ($1 / 3) = 7 then 'rare'
      else 'customer-' || n % 50000 end,
    status, 'EUR', 1, 1000, case payment when 'unpaid' then 0 else 1000 end,
    case payment when 'refunded' then 1000 when 'partially_refunded' then 10 else 0 end, at,
    case when status <> 'pending' and payment <> 'unpaid' then at end,
    case status when 'shipped' then at end, case status when 'shipped' then 'T-' || n end,
    case status when 'cancelled' then at end, 3,
    case when n % 10 < 6 then 'common' when n % 10 = 6 then 'ref-' || n end, nullif(progress, ''),
    json_build_array(case
      when n % 5 < 2 and n % ($1 / 40) <> 0 then 'large-' || n % 7
      when n % 10 in (2, 4, 8) or n % ($1 / 40) = 0 then 'popular'
      else 'sku-' || n % 5000 end, 'also-' || n % 1000)
  from generate_series($2::int, $3::int) as n,
    lateral (select ($1 - n) * interval '-8 s' as age) as ages,
    lateral (select date_trunc('milliseconds', now() + age) as at) as ats,
    lateral (select ($4::text[])[1 + case when n % 1000 = 5 then n / 1000 % 13
      else n * 13 / ($1 + 1) end] as life) as lives,
    lateral (select split_part(life, '/', 1) as status, split_part(life, '/', 2) as payment,
      split_part(life, '/', 3) as progress) as parts`;

/** Every tenth order has a live saga, in runs of one state; and some have three refunds that are stuck. */
const SAGAS = `
  insert into saga_work (saga_id, subject_id, definition, definition_version, state, attempt, owner, epoch)
  select gen_random_uuid(), order_id, 'fulfilment', 1,
    case kind when 0 then 'running' when 1 then 'running' when 2 then 'compensating' else 'stuck' end,
    case kind when 1 then 2 else 0 end, case kind when 0 then gen_random_uuid() end, 1
  from (
    select order_id, n * 5 / ($1 + 1) as kind
    from (select order_id, row_number() over (order by placed_at) as n from orders_summary) as numbered
    where n % 10 = 0 or n % 1000 = 0
  ) as kinds
  union all
  select gen_random_uuid(), order_id, 'refund', 1,
    case when n < $1 * 0.7 then 'stuck' else 'running' end, 0, null, 1
  from (select order_id, row_number() over (order by placed_at) as n from orders_summary) as numbered,
    generate_series(1, 3)
  where n % 50 = 0`;

const CHUNK = 250_000;

/** Fills `orders_summary`, `order_skus` and `saga_work`. The newest order is of now. */
export async function insertHostileOrders(query: Query, orders: number): Promise<void> {
  for (let from = 1; from <= orders; from += CHUNK) {
    await query(ORDERS, [orders, from, Math.min(orders, from + CHUNK - 1), LIVES]);
  }
  await query(SAGAS, [orders]);
  await query('vacuum analyze orders_summary');
  await query('vacuum analyze order_skus');
  await query('vacuum analyze saga_work');
}

/** One list of each kind that is offered, without a customer. */
export const OFFERED: readonly OrderFilter[] = [
  {},
  ...(['pending', 'paid', 'shipped', 'cancelled'] as const).map((status) => ({ status })),
  ...(['unpaid', 'paid', 'partially_refunded', 'refunded'] as const).map((paymentStatus) => ({
    paymentStatus,
  })),
  ...(['unshipped', 'partially_shipped', 'shipped', 'delivered', 'returned'] as const).map(
    (shipmentStatus) => ({ shipmentStatus }),
  ),
  { status: 'paid', shipmentStatus: 'unshipped' },
  { paymentStatus: 'paid', shipmentStatus: 'unshipped' },
  { status: 'shipped', paymentStatus: 'paid', shipmentStatus: 'delivered' },
  { status: 'cancelled', paymentStatus: 'paid' },
  ...(['running', 'waiting', 'compensating', 'stuck'] as const).map((fulfilment) => ({
    fulfilment,
  })),
  ...(['running', 'stuck'] as const).map((refund) => ({ refund })),
  { owed: 'true' },
  { externalReference: 'common' },
  { externalReference: 'ref-6' },
  { sku: 'popular' },
  { sku: 'sku-17' },
  { sku: 'also-17' },
  { sku: 'absent' },
];

/** None, one with very many orders, one with three, one with none. */
export const CUSTOMERS = [undefined, 'large', 'rare', 'nobody'] as const;

const planNode = z.object({
  'Node Type': z.string(),
  'Index Name': z.string().optional(),
  'Actual Rows': z.number(),
  'Actual Loops': z.number(),
  'Rows Removed by Filter': z.number().default(0),
  'Shared Hit Blocks': z.number(),
  'Shared Read Blocks': z.number(),
  get Plans() {
    return z.array(planNode).default([]);
  },
});
type PlanNode = z.infer<typeof planNode>;
const explained = z.tuple([z.object({ 'QUERY PLAN': z.tuple([z.object({ Plan: planNode })]) })]);

/** A list by statuses reads a page of each of their combinations. */
const COMBINATIONS = 80;
const BLOCKS_PER_ROW = 4;

/** Runs a page as a caller's read. `faults`: what its plan does too much for a page. */
export async function explainPage(
  reads: ReadPool,
  selection: Selection,
): Promise<Readonly<{ nodes: string[]; faults: string[] }>> {
  const { sql, bindings } = listQuery(reads.knex, selection).toSQL().toNative();
  const { rows } = await reads.pool.query(`explain (analyze, format json) ${sql}`, [...bindings]);
  const [{ 'QUERY PLAN': plans }] = explained.parse(rows);
  const nodes = nodesOf(plans[0].Plan);
  const rowsMax = COMBINATIONS * selection.rowsMax;
  const blocks = plans[0].Plan['Shared Hit Blocks'] + plans[0].Plan['Shared Read Blocks'];
  const faults = nodes.flatMap((node) => {
    const type = node['Node Type'];
    const read = (node['Actual Rows'] + node['Rows Removed by Filter']) * node['Actual Loops'];
    const isOther = type === 'Seq Scan' || type.startsWith('Bitmap');
    return isOther || read > rowsMax ? [`${type} of ${read} rows`] : [];
  });
  if (blocks > BLOCKS_PER_ROW * rowsMax) faults.push(`${blocks} blocks`);
  return { nodes: nodes.map((node) => node['Index Name'] ?? node['Node Type']), faults };
}

function nodesOf(node: PlanNode): PlanNode[] {
  return [node, ...node.Plans.flatMap(nodesOf)];
}
