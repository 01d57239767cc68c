import { isDeepStrictEqual } from 'node:util';
import type { ReadPool } from '#src/database/database.ts';
import { OrderRejected } from './domain/order-commands.ts';
import type { HandleOrderCommand } from './handle-order-command.ts';
import { readShownPersonalData } from './personal-data-store.ts';

/** How often the address is read in all while others change the order. */
const ATTEMPTS_MAX = 5;

/** The order has changed since its address was read. */
class AddressOutdated extends Error {}

/**
 * Runs commands that set the address of an order. One that sets the address that is there already is a duplicate. The
 * address is not in the stream that decides, so it is read before, with the version that it belongs to, and read again
 * if the stream is at another version by then.
 */
export function createAddressHandler(
  handle: HandleOrderCommand,
  reads: ReadPool,
): HandleOrderCommand {
  return async (request) => {
    const { orderId, customerId, personalData } = request;
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
      const present = await readShownPersonalData(reads, orderId, customerId);
      const isSame = isDeepStrictEqual(
        present?.data.shippingAddress,
        personalData?.shippingAddress,
      );
      const isRepeated = (version: number) => {
        if (version !== present?.version) throw new AddressOutdated();
        return isSame;
      };
      try {
        return await handle({ ...request, isRepeated });
      } catch (error) {
        if (!(error instanceof AddressOutdated)) throw error;
      }
    }
    throw new OrderRejected('version_conflict', null);
  };
}
