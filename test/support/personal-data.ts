import { randomBytes, randomInt } from 'node:crypto';
import { createCanaries } from './canaries.ts';
import type { Canaries } from './canaries.ts';
import type { Query } from './database.ts';

/** The one table that may hold personal data. */
const PERSONAL_TABLE = 'order_personal_data';

/** Where an order goes, how to reach the customer, and how it is paid, as `POST /v1/orders` takes it. */
export const personal = {
  shippingAddress: {
    name: 'Ada Example',
    line1: '1 Sample Street',
    line2: 'Flat 2',
    postalCode: '10115',
    city: 'Berlin',
    region: 'BE',
    country: 'DE',
  },
  contact: { email: 'ada@example.com', phone: '+49 30 1234567' },
  payment: { method: 'pm_card_ok' },
} as const;

/** Personal data of which every text occurs nowhere else. */
export function plantedData({ at }: Canaries, place: string) {
  return {
    shippingAddress: {
      name: at(`${place}-name`),
      line1: at(`${place}-line1`),
      line2: at(`${place}-line2`),
      postalCode: at(`${place}-postalCode`),
      city: at(`${place}-city`),
      region: at(`${place}-region`),
      country: 'DE',
    },
    contact: { email: `${at(`${place}-email`)}@example.com`, phone: `+${at(`${place}-phone`)}` },
    payment: { method: `pm_${at(`${place}-method`)}` },
  };
}

/** Canaries for these places, of which postal codes are short and phones have digits only. */
export function createPersonalCanaries(places: readonly string[]): Canaries {
  const digits = () => Array.from({ length: 20 }, () => randomInt(10)).join('');
  return createCanaries(
    Object.fromEntries(
      places.flatMap((place) => [
        [`${place}-postalCode`, `pc${randomBytes(9).toString('hex')}`],
        [`${place}-phone`, digits()],
      ]),
    ),
  );
}

/** Every row of every table of the database but the one for personal data, as text; and the rows of that one. */
export async function textsOf(query: Query): Promise<Readonly<{ others: string; own: string }>> {
  const tables = await query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema')
       and n.nspname !~ '^pg_toast'
     order by 1`,
  );
  const texts = new Map<string, string>();
  for (const { name } of tables) {
    const rows = await query<{ text: string }>(`select t::text as text from ${name} t`);
    texts.set(name, rows.map(({ text }) => text).join('\n'));
  }
  const own = texts.get(PERSONAL_TABLE);
  if (own === undefined) throw new Error(`there is no table ${PERSONAL_TABLE}`);
  texts.delete(PERSONAL_TABLE);
  return { others: [...texts].flat().join('\n'), own };
}

/**
 * Compares the table of personal data with what the events of each order say of it.
 * @returns one sentence for each order that has data which it must not have, or lacks data which it must have
 */
export async function verifyPersonalData(query: Query): Promise<string[]> {
  const orders = await query<{ id: string; wanted: string; found: string }>(`
    with told as (
      select stream_id as id,
        max(events.version) filter (where type = 'PersonalDataErased') as erased,
        max(events.version) filter (where type = 'ShippingAddressChanged'
          or data -> 'hasShippingAddress' = 'true') as address,
        max(events.version) filter (where data -> 'hasContact' = 'true') as reached,
        max(events.version) filter (where data -> 'hasPaymentMethod' = 'true') as method
      from events join streams using (stream_id) where category = 'order'
      group by stream_id
    )
    select coalesce(told.id, order_id) as id,
      concat_ws(' ', case when address > coalesce(erased, 0) then 'address' end,
        case when reached > coalesce(erased, 0) then 'contact' end,
        case when method > coalesce(erased, 0) then 'method' end) as wanted,
      concat_ws(' ', case when shipping_address is not null then 'address' end,
        case when contact is not null then 'contact' end,
        case when payment_method is not null then 'method' end) as found
    from told full join order_personal_data on order_id = told.id`);
  return orders
    .filter(({ wanted, found }) => wanted !== found)
    .map(
      ({ id, wanted, found }) =>
        `order ${id} has ${found || 'nothing'}, not ${wanted || 'nothing'}`,
    );
}
