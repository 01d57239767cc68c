import { DatabaseError } from 'pg';
import type { Pool } from 'pg';
import { z } from 'zod';
import type { ReadPool } from '#src/database/database.ts';
import { withClient } from '#src/database/session-pool.ts';
import { CommandUncertain, StoreUnavailable } from '#src/event-store/event-store.ts';
import { writeFailureOf } from '#src/database/database-errors.ts';
import type { EntityTags } from '#src/http/entity-tags.ts';
import { requireSameRequest } from '#src/http/idempotency.ts';
import type { KeyedRequest } from '#src/http/idempotency.ts';
import { withDeadline } from '#src/workers/worker.ts';

/** A level as it is stored under an idempotency key. */
const storedLevel = z.object({
  sku: z.string(),
  onHand: z.int(),
  reserved: z.int(),
  updatedAt: z.string(),
});

/** The stock of one sku. `available` can still be reserved. */
export type StockLevel = Readonly<z.infer<typeof storedLevel> & { available: number }>;

/** A level, and the ETag of its row. */
export type TaggedStock = Readonly<{ level: StockLevel; etag: string }>;

export type StockPage = Readonly<{ data: StockLevel[]; nextCursor: string | null }>;

/** A change of the stock of a sku: to a quantity on hand, or by a difference. */
export type StockChange = Readonly<{ sku: string } & ({ onHand: number } | { delta: number })>;

/** The conditions of a change, and its idempotency key. */
export type StockGuards = Readonly<{
  ifMatch?: EntityTags | undefined;
  ifNoneMatch?: EntityTags | undefined;
  keyed?: KeyedRequest | undefined;
}>;

/** Why a change was not made. */
export type StockRefusal = 'unmatched' | 'missing' | 'reserved' | 'too_many';

/** `stock` of a refusal is the present stock, or null if there is none. */
export type StockOutcome =
  | Readonly<{ status: number; stock: TaggedStock; replayed: boolean }>
  | Readonly<{ refusal: StockRefusal; stock: TaggedStock | null }>;

export const ON_HAND_MAX = 1_000_000_000;

/** Another request with the same key was faster. A second attempt finds its response. */
const KEY_TAKEN = '40001';

type Row = Readonly<{ sku: string; on_hand: number; reserved: number; updated_at: Date }>;
type TaggedRow = Row & Readonly<{ etag: string }>;
type ChangeRow =
  | (TaggedRow & Readonly<{ verdict: 'created' | 'changed' }>)
  | Readonly<{
      verdict: 'replayed';
      request_hash: Uint8Array;
      status: number;
      etag: string;
      body: string;
    }>
  | (Readonly<{ verdict: StockRefusal }> & (TaggedRow | Readonly<{ sku: null }>));

/**
 * Changes the stock of a sku if the conditions hold, once per key.
 * @throws CommandUncertain if the stock may have been changed
 * @throws Problem `idempotency_key_reused`
 */
export async function changeStock(
  pool: Pool,
  change: StockChange,
  guards: StockGuards = {},
): Promise<StockOutcome> {
  const row = await callChangeStock(pool, change, guards).catch((error: unknown) => {
    if (!(error instanceof DatabaseError && error.code === KEY_TAKEN)) throw error;
    return callChangeStock(pool, change, guards);
  });
  if (row.verdict === 'replayed') {
    if (guards.keyed) requireSameRequest(row.request_hash, guards.keyed);
    const level = withAvailable(storedLevel.parse(JSON.parse(row.body)));
    return { status: row.status, stock: { level, etag: row.etag }, replayed: true };
  }
  if (row.verdict === 'created' || row.verdict === 'changed') {
    const status = row.verdict === 'created' ? 201 : 200;
    return { status, stock: toTagged(row), replayed: false };
  }
  return { refusal: row.verdict, stock: row.sku === null ? null : toTagged(row) };
}

function callChangeStock(
  pool: Pool,
  change: StockChange,
  { ifMatch, ifNoneMatch, keyed }: StockGuards,
): Promise<ChangeRow> {
  return withClient(pool, async (client) => {
    const asked = client.query<ChangeRow>(
      'select * from change_stock($1, $2, $3, $4, $5, $6, $7, $8, $9)',
      [
        change.sku,
        'onHand' in change ? change.onHand : null,
        'delta' in change ? change.delta : null,
        ON_HAND_MAX,
        ifMatch ? strongTags(ifMatch) : null,
        ifNoneMatch ? [...strongTags(ifNoneMatch), ...ifNoneMatch.weak] : null,
        keyed?.ref.principal ?? null,
        keyed?.ref.key ?? null,
        keyed?.hash ?? null,
      ],
    );
    const { rows } = await asked.catch((error: unknown) => {
      throw writeFailureOf(error) === 'unknown' ? new CommandUncertain(error) : error;
    });
    const [row] = rows;
    if (!row) throw new Error('change_stock returned no row');
    return row;
  });
}

/** How long a change waits for earlier changes of the same sku. */
const TURN_WAIT_MS_MAX = 2_000;

/**
 * Runs the changes of one sku one after another, so that a locked row takes up one connection and not all of them.
 * @throws StoreUnavailable if the earlier changes took too long
 */
export type SkuTurns = <Result>(sku: string, change: () => Promise<Result>) => Promise<Result>;

export function createSkuTurns(): SkuTurns {
  const lastTurns = new Map<string, Promise<unknown>>();
  return async (sku, change) => {
    const earlier = lastTurns.get(sku);
    const ended = Promise.withResolvers<void>();
    const turn = Promise.all([earlier, ended.promise]);
    lastTurns.set(sku, turn);
    try {
      await withDeadline(Promise.resolve(earlier), TURN_WAIT_MS_MAX, () =>
        Promise.reject(new StoreUnavailable('earlier changes of the same sku took too long')),
      );
      return await change();
    } finally {
      ended.resolve();
      void turn.then(() => lastTurns.get(sku) === turn && lastTurns.delete(sku));
    }
  };
}

function strongTags({ any, strong }: EntityTags): string[] {
  return any ? ['*'] : [...strong];
}

export async function readStock(reads: ReadPool, sku: string): Promise<TaggedStock | null> {
  const { knex } = reads;
  const query = knex('stock').select('*', knex.raw('stock_etag(stock) as etag')).where({ sku });
  const [row] = await reads.rows<TaggedRow>(query);
  return row ? toTagged(row) : null;
}

/** One page in the order of skus, starting after `cursor`. */
export async function listStock(
  reads: ReadPool,
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

function toTagged(row: TaggedRow): TaggedStock {
  return { level: toStockLevel(row), etag: row.etag };
}

function toStockLevel({ sku, on_hand: onHand, reserved, updated_at: updatedAt }: Row): StockLevel {
  return withAvailable({ sku, onHand, reserved, updatedAt: updatedAt.toISOString() });
}

function withAvailable(level: z.infer<typeof storedLevel>): StockLevel {
  const { sku, onHand, reserved, updatedAt } = level;
  return { sku, onHand, reserved, available: onHand - reserved, updatedAt };
}
