import type { ReadPool } from '#src/database/database.ts';
import type { EventMetadata } from '#src/event-store/event-store.ts';
import { OrderRejected } from './domain/order-commands.ts';
import type { RejectionCode } from './domain/order-commands.ts';
import type { HandleOrderCommand } from './handle-order-command.ts';
import { ordersWithPersonalData } from './personal-data-store.ts';

/** Orders that one call looks at. */
const ORDERS_MAX = 100;
/** Erasures that wait for a commit at the same time: they share it, and leave room for others. */
const AT_ONCE = 20;
/** `left` counts no further. */
export const LEFT_MAX = 1_000;

/** An order that keeps its personal data for now, and why. */
export type Refusal = Readonly<{ orderId: string; code: RejectionCode }>;

/** What one call did, and what is left. */
export type ErasedPage = Readonly<{
  /** Orders of this page whose data is gone. */
  erased: number;
  /** Orders of this page that keep their data for now. */
  refused: readonly Refusal[];
  /** Orders of the customer, on whatever page, that still have personal data. */
  left: number;
  /** Where the next page starts; null after the last one. */
  nextCursor: string | null;
}>;

/**
 * Erases the personal data of a customer, of at most 100 orders. Each order is a command of its own, so each is erased
 * whole or not at all, and a call that breaks off has erased the orders that it had come to. Orders that refuse do not
 * keep the others from their turn, because the next page starts behind them.
 */
export async function eraseCustomer(
  { handle, reads }: Readonly<{ handle: HandleOrderCommand; reads: ReadPool }>,
  customerId: string,
  { cursor, metadata }: Readonly<{ cursor?: string | undefined; metadata: EventMetadata }>,
): Promise<ErasedPage> {
  const limit = ORDERS_MAX;
  const orderIds = await ordersWithPersonalData(reads, customerId, { after: cursor, limit });
  const refused: Refusal[] = [];
  const erase = async (orderId: string): Promise<Refusal[]> => {
    try {
      await handle({ orderId, command: { type: 'ErasePersonalData' }, metadata });
      return [];
    } catch (error) {
      if (!(error instanceof OrderRejected)) throw error;
      return [{ orderId, code: error.code }];
    }
  };
  for (let next = 0; next < orderIds.length; next += AT_ONCE) {
    refused.push(...(await Promise.all(orderIds.slice(next, next + AT_ONCE).map(erase))).flat());
  }
  const left = await ordersWithPersonalData(reads, customerId, { limit: LEFT_MAX });
  const last = orderIds.at(-1);
  return {
    erased: orderIds.length - refused.length,
    refused,
    left: left.length,
    nextCursor: orderIds.length === limit && last !== undefined ? last : null,
  };
}
