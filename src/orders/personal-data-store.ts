import type { Pool } from 'pg';
import type { ReadPool } from '#src/database/database.ts';
import type { PersonalDataRow } from '#src/event-store/event-store.ts';
import { ORDER_CATEGORY } from './domain/order-events.ts';
import type { OrderEvent } from './domain/order-events.ts';
import { storedAddress, storedContact } from './personal-data.ts';
import type { PersonalData, ShippingAddress } from './personal-data.ts';

/** It is before every other. */
const FIRST_ID = '00000000-0000-0000-0000-000000000000';

type StoredColumns = Readonly<{
  shipping_address?: unknown;
  contact?: unknown;
  payment_method?: string | null;
}>;

function toPersonalData({
  shipping_address: address,
  contact,
  payment_method: paymentMethod,
}: StoredColumns): PersonalData {
  return {
    ...(isSet(address) && { shippingAddress: storedAddress.parse(address) }),
    ...(isSet(contact) && { contact: storedContact.parse(contact) }),
    ...(isSet(paymentMethod) && { paymentMethod }),
  };
}

function isSet<Value>(value: Value): value is NonNullable<Value> {
  return value !== null && value !== undefined;
}

/** What is kept of one order, for whoever carries it out. Nothing is set if nothing was given, or all was erased. */
export async function readPersonalData(
  pool: Pick<Pool, 'query'>,
  orderId: string,
): Promise<PersonalData> {
  const { rows } = await pool.query<StoredColumns>(
    'select shipping_address, contact, payment_method from order_personal_data where order_id = $1',
    [orderId],
  );
  return rows[0] ? toPersonalData(rows[0]) : {};
}

/** What an order shows of its personal data at a version. */
export type ShownPersonalData = Readonly<{
  version: number;
  data: Pick<PersonalData, 'shippingAddress' | 'contact'>;
}>;

/**
 * The version of an order with its address and contact. One statement reads both, and every change of them makes a
 * version, so they belong together.
 * @returns undefined if there is no such order, or if it is not the customer's
 */
export async function readShownPersonalData(
  { pool }: ReadPool,
  orderId: string,
  customerId?: string,
): Promise<ShownPersonalData | undefined> {
  const { rows } = await pool.query<StoredColumns & Readonly<{ version: number }>>(
    `select s.version, p.shipping_address, p.contact
     from streams s left join order_personal_data p on p.order_id = s.stream_id
     where s.stream_id = $1 and s.category = $2
       and ($3::text is null
         or $3 = (select customer_id from orders_summary where order_id = $1))`,
    [orderId, ORDER_CATEGORY, customerId ?? null],
  );
  return rows[0] && { version: rows[0].version, data: toPersonalData(rows[0]) };
}

/** Ids of orders of a customer that have personal data, in order, from the one after `after` on. */
export async function ordersWithPersonalData(
  { pool }: ReadPool,
  customerId: string,
  { after = FIRST_ID, limit }: Readonly<{ after?: string | undefined; limit: number }>,
): Promise<string[]> {
  const { rows } = await pool.query<{ id: string }>(
    `select order_id as id from order_personal_data
     where customer_id = $1 and order_id > $2 order by order_id limit $3`,
    [customerId, after, limit],
  );
  return rows.map(({ id }) => id);
}

/** What the events of an order do to its personal data. `given` came with the command that caused them. */
export function personalDataRows(
  { orderId, customerId }: Readonly<{ orderId: string; customerId: string }>,
  events: readonly OrderEvent[],
  given: PersonalData = {},
): PersonalDataRow[] {
  const key = { order_id: orderId, customer_id: customerId };
  return events.flatMap(({ type }): PersonalDataRow[] => {
    if (type === 'OrderPlaced') return putRows(key, given);
    if (type === 'ShippingAddressChanged') return [{ op: 'address', ...key, ...required(given) }];
    return type === 'PersonalDataErased' ? [{ op: 'erase', order_id: orderId }] : [];
  });
}

function putRows(
  key: Readonly<{ order_id: string; customer_id: string }>,
  { shippingAddress, contact, paymentMethod }: PersonalData,
): PersonalDataRow[] {
  if (shippingAddress === undefined && contact === undefined && paymentMethod === undefined) {
    return [];
  }
  const columns = {
    shipping_address: shippingAddress ?? null,
    contact: contact ?? null,
    payment_method: paymentMethod ?? null,
  };
  return [{ op: 'put', ...key, ...columns }];
}

function required({ shippingAddress }: PersonalData): { shipping_address: ShippingAddress } {
  if (!shippingAddress) throw new Error('an address is changed without a new one');
  return { shipping_address: shippingAddress };
}
