import type { Reads } from '#src/database/reads.ts';
import { withClient } from '#src/database/with-client.ts';
import { CommandUncertain } from '#src/event-store/group-commit-errors.ts';
import { writeFailureOf } from '#src/event-store/write-failure.ts';

/** Goods of one sku; `available` is what may still be reserved. */
export type StockLevel = Readonly<{
  sku: string;
  onHand: number;
  reserved: number;
  available: number;
  updatedAt: string;
}>;

export type StockPage = Readonly<{ data: StockLevel[]; nextCursor: string | null }>;

type Row = Readonly<{ sku: string; on_hand: number; reserved: number; updated_at: Date }>;

/**
 * Sets what is on hand; null where more than that is reserved, so that nothing was changed.
 * @throws CommandUncertain where it may have been set
 */
export async function setOnHand(
  { pool }: Reads,
  sku: string,
  onHand: number,
): Promise<StockLevel | null> {
  return withClient(pool, async (client) => {
    const asked = client.query<Row>(
      `insert into stock (sku, on_hand) values ($1, $2)
       on conflict (sku) do update
         set on_hand = excluded.on_hand, updated_at = clock_timestamp()
         where stock.reserved <= excluded.on_hand
       returning sku, on_hand, reserved, updated_at`,
      [sku, onHand],
    );
    const { rows } = await asked.catch((error: unknown) => {
      throw writeFailureOf(error) === 'unknown' ? new CommandUncertain(error) : error;
    });
    const [row] = rows;
    return row ? toStockLevel(row) : null;
  });
}

export async function readStock(reads: Reads, sku: string): Promise<StockLevel | null> {
  const [row] = await reads.rows<Row>(reads.knex('stock').select('*').where({ sku }));
  return row ? toStockLevel(row) : null;
}

/** One page in the order of skus, from after `cursor`. */
export async function listStock(
  reads: Reads,
  limit: number,
  cursor: string | undefined,
): Promise<StockPage> {
  const query = reads
    .knex('stock')
    .select('*')
    .orderBy('sku')
    .limit(limit + 1);
  if (cursor !== undefined) query.where('sku', '>', Buffer.from(cursor, 'base64url').toString());
  const rows = await reads.rows<Row>(query);
  const data = rows.slice(0, limit).map(toStockLevel);
  const last = data.at(-1);
  const nextCursor =
    rows.length > limit && last ? Buffer.from(last.sku).toString('base64url') : null;
  return { data, nextCursor };
}

function toStockLevel({ sku, on_hand: onHand, reserved, updated_at: updatedAt }: Row): StockLevel {
  const available = onHand - reserved;
  return { sku, onHand, reserved, available, updatedAt: updatedAt.toISOString() };
}
