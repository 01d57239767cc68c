import { existsSync, globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { toUcpOrder } from '#src/orders/ucp-order.ts';
import type { HttpResponse } from '#test/support/http-client.ts';
import { field } from '#test/support/order-fold.ts';
import { skipReason } from '#test/support/infra.ts';
import { startReplica, createSagaWorld } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';
import { anyOrder } from './random-orders.ts';

/*
 * The schemas that UCP has published. They are no part of this repository: where the folder beside it is missing, this
 * file is skipped, and .ci/run leaves it out.
 */
const SCHEMAS = fileURLToPath(new URL('../../../shared/ucp/schemas/', import.meta.url));
const ORDER_SCHEMA = 'https://ucp.dev/schemas/shopping/order.json';
const isMissing = !existsSync(SCHEMAS);
if (isMissing)
  console.log(`there are no schemas of UCP at ${SCHEMAS}: the tests with them are skipped`);

const json = z.record(z.string(), z.unknown());
type Json = z.infer<typeof json>;
type Schema = Readonly<{ id: string; schema: Json }>;

describe.skipIf(isMissing)("UCP's form of an order", () => {
  let ajv: Ajv2020;
  let schemas: ReadonlyMap<string, Json>;

  beforeAll(() => {
    schemas = new Map(
      globSync('**/*.json', { cwd: SCHEMAS }).map((file) => {
        const schema = json.parse(JSON.parse(readFileSync(`${SCHEMAS}/${file}`, 'utf8')));
        return [String(schema['$id']), schema];
      }),
    );
    ajv = new Ajv2020({ allErrors: true, strict: false });
    addFormats.default(ajv);
    for (const [id, schema] of schemas) ajv.addSchema(schema, id);
  });

  /** What is wrong with it. Members that no schema declares would be let through, because UCP's objects are open. */
  const faultsOf = (order: unknown): unknown[] => {
    const validate = ajv.getSchema(ORDER_SCHEMA);
    if (!validate) throw new Error(`there is no schema ${ORDER_SCHEMA}`);
    const isValid = validate(order);
    return [...(isValid ? [] : (validate.errors ?? [])), ...undeclared(order, [ORDER_SCHEMA], '')];
  };

  /** The members of the value that none of its schemas names, as paths. `at` are references to its schemas. */
  function undeclared(value: unknown, at: readonly string[], path: string): string[] {
    const own = at.flatMap((reference) => alternatives(reference));
    if (Array.isArray(value)) {
      const items = own.flatMap(({ id, schema }) => ('items' in schema ? [`${id}/items`] : []));
      return value.flatMap((item, index) => undeclared(item, items, `${path}/${index}`));
    }
    if (typeof value !== 'object' || value === null) return [];
    return Object.entries(value).flatMap(([name, member]) => {
      const named = own.flatMap(({ id, schema }) => {
        const { properties, additionalProperties: others } = schema;
        if (json.safeParse(properties).data?.[name] !== undefined) {
          return [`${id}/properties/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`];
        }
        return typeof others === 'object' ? [`${id}/additionalProperties`] : [];
      });
      const inside = `${path}/${name}`;
      return named.length === 0 ? [`${inside} is not declared`] : undeclared(member, named, inside);
    });
  }

  const known = new Map<string, Schema[]>();
  /** The schema at a reference, with all that it refers to and consists of. */
  function alternatives(reference: string): Schema[] {
    const found = known.get(reference) ?? findAlternatives(reference);
    known.set(reference, found);
    return found;
  }

  function findAlternatives(reference: string): Schema[] {
    const [base = '', pointer = ''] = reference.split('#');
    const schema = json.parse(
      pointer
        .split('/')
        .slice(1)
        .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
        .reduce<unknown>(field, schemas.get(base)),
    );
    const id = reference.includes('#') ? reference : `${reference}#`;
    const { $ref, allOf } = schema;
    return [
      { id, schema },
      ...(typeof $ref === 'string' ? alternatives(new URL($ref, base).href) : []),
      ...(Array.isArray(allOf) ? allOf : []).flatMap((_, i) => alternatives(`${id}/allOf/${i}`)),
    ];
  }

  test('is valid for any order, with and without personal data', () => {
    const personal = {
      shippingAddress: {
        name: 'Ada Example',
        line1: '1 Sample Street',
        line2: 'Back house',
        postalCode: '10115',
        city: 'Berlin',
        region: 'BE',
        country: 'DE',
      },
      contact: { phone: '+49 30 1234567' },
    };
    fc.assert(
      fc.property(anyOrder, fc.constantFrom({}, personal), (order, more) => {
        const permalinkUrl = `urn:uuid:${order.orderId}`;
        expect(faultsOf(toUcpOrder(order, { permalinkUrl, ...more }))).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });

  test('would be refused by these schemas if it were wrong', () => {
    fc.assert(
      fc.property(anyOrder, (order) => {
        const ucp = toUcpOrder(order, { permalinkUrl: 'urn:uuid:1' });
        const [line, ...lines] = ucp.line_items;
        const wrong = [
          { ...ucp, checkout_id: undefined },
          { ...ucp, permalink_url: 'no address' },
          { ...ucp, totals: ucp.totals.slice(1) },
          { ...ucp, totals: [...ucp.totals, { type: 'discount', amount: 1 }] },
          { ...ucp, ucp: { ...ucp.ucp, version: 'draft' } },
          { ...ucp, fulfilment: ucp.fulfillment },
          { ...ucp, line_items: [{ ...line, status: 'shipped' }, ...lines] },
          { ...ucp, line_items: [{ ...line, item: { ...line?.item, name: 'x' } }, ...lines] },
        ];
        for (const each of wrong) {
          expect(faultsOf(JSON.parse(JSON.stringify(each)))).not.toEqual([]);
        }
      }),
      { numRuns: 20 },
    );
  });

  describe.skipIf(skipReason('postgres'))('from the service', () => {
    let world: SagaWorld;
    let replica: Replica;
    beforeAll(async () => {
      world = await createSagaWorld();
      replica = await startReplica(world);
    });
    afterAll(async () => {
      await replica[Symbol.asyncDispose]();
      await world[Symbol.asyncDispose]();
    });

    test('is valid after each command', async () => {
      const { request } = replica.api;
      const read = (orderId: string) =>
        request('GET', `/v1/orders/${orderId}`, { headers: { accept: 'application/ucp+json' } });
      const placed = await request('POST', '/v1/orders', {
        body: {
          customerId: 'c-1',
          currency: 'EUR',
          items: [
            { sku: 'book', name: 'A book', quantity: 3, priceCents: 1000 },
            { sku: 'pen', quantity: 1, priceCents: 100 },
          ],
          shippingCents: 490,
          taxCents: 31,
          discountCents: 100,
          externalReference: 'shop-1001',
          shippingAddress: {
            name: 'Ada Example',
            line1: '1 Sample Street',
            postalCode: '10115',
            city: 'Berlin',
            country: 'DE',
          },
        },
      });
      const orderId = String(bodyOf(placed)['orderId']);
      const commands: readonly (readonly [string, Json])[] = [
        ['pay', { paymentId: 'pay-1', amountCents: 3521 }],
        ['ship', { trackingNumber: 'T-1', carrier: 'post', items: [{ lineId: '1', quantity: 2 }] }],
        ['ship', { trackingNumber: 'T-2', carrier: 'post' }],
        ['deliver', { trackingNumber: 'T-1' }],
        ['return', { returnId: 'r-1', items: [{ lineId: '1', quantity: 1 }], reason: 'damaged' }],
        ['refund', { refundId: 'f-1', amountCents: 1000, returnId: 'r-1', reason: 'damaged' }],
      ];
      expect(faultsOf(bodyOf(await read(orderId)))).toEqual([]);
      for (const [name, body] of commands) {
        bodyOf(await request('POST', `/v1/orders/${orderId}/${name}`, { body }));
        expect(faultsOf(bodyOf(await read(orderId))), name).toEqual([]);
      }
      expect(bodyOf(await read(orderId))).toMatchObject({
        id: orderId,
        checkout_id: 'shop-1001',
        line_items: [
          { id: '1', quantity: { original: 3, total: 2, fulfilled: 2 }, status: 'fulfilled' },
          { id: '2', item: { id: 'pen', title: 'pen', price: 100 }, status: 'fulfilled' },
        ],
        fulfillment: {
          events: [
            { type: 'shipped', tracking_number: 'T-1' },
            { type: 'shipped', tracking_number: 'T-2' },
            { type: 'delivered', tracking_number: 'T-1' },
          ],
        },
        adjustments: [
          { type: 'return', line_items: [{ id: '1', quantity: -1 }] },
          { type: 'refund', totals: [{ type: 'total', amount: -1000 }] },
        ],
      });
    });

    function bodyOf({ status, text }: HttpResponse): Json {
      if (status < 200 || status > 299) throw new Error(`got ${status}: ${text}`);
      return json.parse(JSON.parse(text));
    }
  });
});
