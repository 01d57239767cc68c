import { describe, expect, test } from 'vitest';
import { createReadPool } from '#src/database/database.ts';
import {
  ordersWithPersonalData,
  readPersonalData,
  readShownPersonalData,
} from '#src/orders/personal-data-store.ts';
import { createTestDatabase } from '#test/support/database.ts';
import { skipReason } from '#test/support/infra.ts';
import { servicePool } from '../outbox/outbox-fixture.ts';

const ADDRESS = { name: 'Ada', line1: '1 Street', postalCode: '1', city: 'Berlin', country: 'DE' };
const id = (number: number) => `00000000-0000-7000-8000-${String(number).padStart(12, '0')}`;

describe.skipIf(skipReason('postgres'))('the table of personal data', () => {
  test('is read by order, whatever later releases have added to a row', async () => {
    await using database = await createTestDatabase();
    await using service = servicePool(database.url);
    await database.query(
      `insert into order_personal_data (order_id, customer_id, shipping_address, contact, payment_method)
       values ($1, 'c-1', $3, '{"phone":"not a number","fax":"1"}', 'tok'), ($2, 'c-1', null, null, null)`,
      [id(1), id(2), { ...ADDRESS, floor: '3' }],
    );
    expect(await readPersonalData(service.pool, id(1))).toEqual({
      shippingAddress: ADDRESS,
      contact: { phone: 'not a number' },
      paymentMethod: 'tok',
    });
    expect(await readPersonalData(service.pool, id(2))).toEqual({});
    expect(await readPersonalData(service.pool, id(3))).toEqual({});
  });

  test('is shown without the payment method, with the version, to whose order it is', async () => {
    await using database = await createTestDatabase();
    await using service = servicePool(database.url);
    const reads = createReadPool(service.pool);
    await database.query(
      `insert into streams (stream_id, category, version) values ($1, 'order', 3), ($2, 'saga', 1)`,
      [id(1), id(2)],
    );
    await database.query(
      `insert into order_personal_data (order_id, customer_id, contact, payment_method)
       values ($1, 'c-1', '{"phone":"110"}', 'tok')`,
      [id(1)],
    );
    const shown = { version: 3, data: { contact: { phone: '110' } } };
    expect(await readShownPersonalData(reads, id(1))).toEqual(shown);
    expect(await readShownPersonalData(reads, id(1), 'c-1')).toBeUndefined();
    expect(await readShownPersonalData(reads, id(2))).toBeUndefined();
    expect(await readShownPersonalData(reads, id(3))).toBeUndefined();
  });

  test('is listed by customer, page by page', async () => {
    await using database = await createTestDatabase();
    await using service = servicePool(database.url);
    const reads = createReadPool(service.pool);
    await database.query(
      `insert into order_personal_data (order_id, customer_id)
       select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'c-' || n % 2
       from generate_series(1, 10) as n`,
    );
    const page = (after?: string) => ordersWithPersonalData(reads, 'c-1', { after, limit: 3 });
    expect(await page()).toEqual([id(1), id(3), id(5)]);
    expect(await page(id(5))).toEqual([id(7), id(9)]);
    expect(await page(id(9))).toEqual([]);
    expect(await ordersWithPersonalData(reads, 'c-9', { limit: 3 })).toEqual([]);
  });
});
