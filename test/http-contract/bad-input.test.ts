import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { problemOf } from '#test/support/api-shapes.ts';
import type { Order } from '#test/support/api-shapes.ts';
import { createTestDatabase, rowCounts } from '#test/support/database.ts';
import type { RowCounts, TestDatabase } from '#test/support/database.ts';
import { exchangeRaw } from '#test/support/http-client.ts';
import type { HttpResponse, RequestOptions } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { placeBody } from '#test/support/order-api.ts';
import { startService } from '#test/support/service.ts';
import type { TestService } from '#test/support/service.ts';

/*
 * Bad input gets a 4xx that names the field and the rule, and writes nothing.
 */
const BODY_BYTES_MAX = 256 * 1024;
const json = JSON.stringify;
const [item] = placeBody.items;
const withItem = (change: object) => json({ ...placeBody, items: [{ ...item, ...change }] });
const withField = (change: object) => json({ ...placeBody, ...change });
/** A valid order whose quantity is written as given, which JSON.stringify could not. */
const withQuantity = (text: string) =>
  withItem({ quantity: 'QUANTITY' }).replace('"QUANTITY"', text);
const withPrice = (text: string) => withItem({ priceCents: 'PRICE' }).replace('"PRICE"', text);
const withCustomer = (text: string) => withField({ customerId: 'X' }).replace('"X"', text);

describe.skipIf(skipReason('postgres'))('bad input', () => {
  let database: TestDatabase;
  let service: TestService;
  let order: Order;
  let before: RowCounts;

  beforeAll(async () => {
    database = await createTestDatabase();
    service = await startService({ databaseUrl: database.url });
    order = await service.api.placeOrder();
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    before = await rowCounts(database);
  });
  afterEach(async () => {
    expect(await rowCounts(database)).toEqual(before);
  });

  const request = (method: string, path: string, options?: RequestOptions): Promise<HttpResponse> =>
    service.api.request(method, path.replace('ORDER', order.orderId), options);
  const post = (path: string, rawBody: string | Buffer): Promise<HttpResponse> =>
    request('POST', path, { rawBody });

  describe('in the body of a place', () => {
    test.each<[string, string, string, RegExp]>([
      ['an unknown field', withField({ note: 'x' }), '/note', /not a known/],
      ['a field that the server sets', withField({ totalCents: 1 }), '/totalCents', /not a known/],
      ['a status', withField({ status: 'paid' }), '/status', /not a known/],
      ['an orderId', withField({ orderId: randomUUID() }), '/orderId', /not a known/],
      [
        'an unknown field of an item',
        withItem({ discount: 1 }),
        '/items/0/discount',
        /not a known/,
      ],
      [
        '__proto__',
        json(placeBody).replace('{', '{"__proto__":{"x":1},'),
        '/__proto__',
        /not a name/,
      ],
      ['constructor', withField({ constructor: 1 }), '/constructor', /not a name/],
      [
        'no customerId',
        withField({ customerId: undefined }),
        '/customerId',
        /required|missing|must be/,
      ],
      ['no items', withField({ items: undefined }), '/items', /required|missing|must be/],
      ['null for text', withField({ customerId: null }), '/customerId', /string|text/],
      ['a number for text', withField({ customerId: 5 }), '/customerId', /string|text/],
      ['an object for a list', withField({ items: {} }), '/items', /list|array/],
      ['text for a list', withField({ items: 'x' }), '/items', /list|array/],
      ['null for an item', withField({ items: [null] }), '/items/0', /object/],
      ['"5" for a number', withQuantity('"5"'), '/items/0/quantity', /number|integer/],
      ['true for a number', withQuantity('true'), '/items/0/quantity', /number|integer/],
      ['null for a number', withQuantity('null'), '/items/0/quantity', /number|integer/],
      ['a list for a number', withQuantity('[5]'), '/items/0/quantity', /number|integer/],
      ['a fraction', withQuantity('1.5'), '/items/0/quantity', /whole|integer/],
      ['nothing of an item', withQuantity('0'), '/items/0/quantity', /1/],
      ['less than nothing', withQuantity('-1'), '/items/0/quantity', /1/],
      ['-0 of an item', withQuantity('-0'), '/items/0/quantity', /./],
      ['-0 cents', withPrice('-0'), '/items/0/priceCents', /./],
      ['-0.0 cents', withPrice('-0.0'), '/items/0/priceCents', /./],
      ['-0e5 cents', withPrice('-0e5'), '/items/0/priceCents', /./],
      ['too many of an item', withQuantity('100001'), '/items/0/quantity', /100,?000/],
      ['2^53', withQuantity('9007199254740992'), '/items/0/quantity', /./],
      ['2^53+1', withPrice('9007199254740993'), '/items/0/priceCents', /./],
      ['an infinite number', withPrice('1e999'), '/items/0/priceCents', /./],
      ['a number rounded to whole', withPrice('1.00000000000000001'), '/items/0/priceCents', /./],
      ['a negative price', withPrice('-1'), '/items/0/priceCents', /0/],
      [
        'a price above 10^12',
        withPrice('1000000000001'),
        '/items/0/priceCents',
        /1,?000,?000,?000,?000/,
      ],
      ['no item', withField({ items: [] }), '/items', /1/],
      ['201 items', withField({ items: Array.from({ length: 201 }, () => item) }), '/items', /200/],
      ['an empty sku', withItem({ sku: '' }), '/items/0/sku', /empty/],
      ['a long sku', withItem({ sku: 's'.repeat(65) }), '/items/0/sku', /64/],
      ['a sku in NFD', withItem({ sku: 'e\u0301' }), '/items/0/sku', /NFC/],
      ['a sku that has no address', withItem({ sku: '..' }), '/items/0/sku', /\. or \.\./],
      ['a line end in a sku', withItem({ sku: 'a\nb' }), '/items/0/sku', /control character/],
      ['a turn in a sku', withItem({ sku: 'a\u202eb' }), '/items/0/sku', /direction/],
      ['a currency that is none', withField({ currency: 'ZZZ' }), '/currency', /three capital/],
      ['a currency of the past', withField({ currency: 'DEM' }), '/currency', /three capital/],
      ['an empty customerId', withField({ customerId: '' }), '/customerId', /empty/],
      ['a long customerId', withField({ customerId: 'ü'.repeat(65) }), '/customerId', /64/],
      ['a short currency', withField({ currency: 'EU' }), '/currency', /three capital letters/],
      ['a long currency', withField({ currency: 'EURO' }), '/currency', /three capital letters/],
      ['a small currency', withField({ currency: 'eur' }), '/currency', /three capital letters/],
      ['a foreign letter', withField({ currency: 'ÉUR' }), '/currency', /three capital letters/],
      ['a line end', withField({ currency: 'EUR\n' }), '/currency', /three capital letters/],
      ['NUL', withCustomer(String.raw`"a\u0000b"`), '/customerId', /U\+0000/],
      ['NUL in a sku', withItem({ sku: '\0' }), '/items/0/sku', /U\+0000/],
      ['half a surrogate', withCustomer(String.raw`"\ud83d"`), '/customerId', /surrogate/],
      ['its other half', withCustomer(String.raw`"\udE00x"`), '/customerId', /surrogate/],
      [
        'both in the wrong order',
        withCustomer(String.raw`"\ude00\ud83d"`),
        '/customerId',
        /surrogate/,
      ],
    ])('%s is refused with its pointer', async (_, rawBody, pointer, rule) => {
      const response = await post('/v1/orders', rawBody);
      expectInvalid(response, pointer, rule);
    });

    test('several faults are reported together', async () => {
      const bad = { customerId: '', items: [{ sku: 'a', quantity: 0, priceCents: 0.5 }], x: 1 };
      const { errors } = problemOf(await post('/v1/orders', json(bad)));
      const pointers = errors?.map(({ pointer }) => pointer).toSorted();
      expect(pointers).toEqual([
        '/currency',
        '/customerId',
        '/items/0/priceCents',
        '/items/0/quantity',
        '/x',
      ]);
    });

    test('a total above 2^53-1 is refused', async () => {
      const dear = { sku: 'a', quantity: 100_000, priceCents: 1_000_000_000_000 };
      const response = await post('/v1/orders', withField({ items: [dear] }));
      expect(problemOf(response)).toMatchObject({ status: 400, code: 'total_too_large' });
    });
  });

  describe('in the body of another command', () => {
    test.each<[string, string, string, RegExp]>([
      ['pay', json({ paymentId: 'p' }), '/amountCents', /./],
      ['pay', json({ paymentId: '', amountCents: 1 }), '/paymentId', /empty/],
      ['pay', json({ paymentId: 'p'.repeat(101), amountCents: 1 }), '/paymentId', /100/],
      ['pay', json({ paymentId: 'p', amountCents: '2500' }), '/amountCents', /number|integer/],
      ['pay', json({ paymentId: 'p', amountCents: -1 }), '/amountCents', /0/],
      ['pay', '{"paymentId":"p","amountCents":-0}', '/amountCents', /./],
      ['pay', '{"paymentId":"p","amountCents":9007199254740992}', '/amountCents', /./],
      ['pay', json({ paymentId: 'p\0', amountCents: 2500 }), '/paymentId', /U\+0000/],
      ['pay', json({ paymentId: 'p', amountCents: 2500, version: 1 }), '/version', /not a known/],
      ['ship', json({ trackingNumber: 't' }), '/carrier', /./],
      ['ship', json({ trackingNumber: 't'.repeat(101), carrier: 'c' }), '/trackingNumber', /100/],
      ['ship', json({ trackingNumber: 't', carrier: 'c'.repeat(101) }), '/carrier', /100/],
      [
        'ship',
        String.raw`{"trackingNumber":"\ud800","carrier":"c"}`,
        '/trackingNumber',
        /surrogate/,
      ],
      ['cancel', '{}', '/reason', /./],
      ['cancel', json({ reason: '' }), '/reason', /empty/],
      ['cancel', json({ reason: 'r'.repeat(501) }), '/reason', /500/],
      ['cancel', json({ reason: 'a\0' }), '/reason', /U\+0000/],
      ['refund', json({ refundId: 'r', amountCents: 0 }), '/amountCents', /1/],
      ['refund', json({ refundId: 'r'.repeat(101), amountCents: 1 }), '/refundId', /100/],
      ['refund', json({ refundId: '.', amountCents: 1 }), '/refundId', /\. or \.\./],
      ['refund', json({ refundId: '..', amountCents: 1 }), '/refundId', /\. or \.\./],
      ['refund', json({ refundId: 'r', amountCents: 1.5 }), '/amountCents', /whole|integer/],
    ])('%s %s is refused with its pointer', async (name, rawBody, pointer, rule) => {
      expectInvalid(await post(`/v1/orders/ORDER/${name}`, rawBody), pointer, rule);
    });
  });

  describe('that is not a JSON object', () => {
    const text = json(placeBody);
    test.each<[string, string | Buffer]>([
      ['nothing', ''],
      ['a space', ' '],
      ['half an object', text.slice(0, -1)],
      ['a comma too many', text.replace(/}$/, ',}')],
      ['something after it', `${text}x`],
      ['two objects', `${text}${text}`],
      ['single quotes', text.replaceAll('"', "'")],
      ['NaN', withPrice('NaN')],
      ['Infinity', withPrice('-Infinity')],
      ['a hexadecimal number', withPrice('0x10')],
      ['a leading zero', withPrice('010')],
      ['a plus sign', withPrice('+1')],
      ['a comment', `/* */${text}`],
      ['a raw control character', withCustomer('"a\u0001"')],
      ['bytes that are not UTF-8', Buffer.from([0x22, 0xff, 0x22])],
      ['Latin-1', Buffer.from(withCustomer('"ü"'), 'latin1')],
      ['a surrogate as UTF-8', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22])],
    ])('%s is malformed JSON', async (_, rawBody) => {
      const problem = problemOf(await post('/v1/orders', rawBody));
      expect(problem).toMatchObject({ status: 400, code: 'malformed_json' });
    });

    test.each(['[]', 'null', '5', '"x"', 'true'])('%s is refused', async (rawBody) => {
      expect(problemOf(await post('/v1/orders', rawBody))).toMatchObject({ status: 400 });
    });

    test.each([
      ['a key twice', text.replace('{', '{"customerId":"c-2",'), /customerId/],
      [
        'the same key escaped',
        text.replace('{', String.raw`{"customer\u0049d":"c-2",`),
        /customerId/,
      ],
      ['a key of an item twice', withPrice('1,"priceCents":2'), /priceCents/],
    ])('%s is refused with its pointer', async (_, rawBody, name) => {
      const response = await post('/v1/orders', rawBody);
      const { status, detail, errors } = problemOf(response);
      expect(status).toBe(400);
      expect(`${detail} ${json(errors)}`).toMatch(name);
      expect(`${detail} ${json(errors)}`).toMatch(/twice|once|duplicate|repeated/);
    });

    test.each(['[', '{"a":'])('%s nested too deeply is refused', async (open) => {
      const rawBody = open.repeat(Math.floor(BODY_BYTES_MAX / open.length));
      expect(problemOf(await post('/v1/orders', rawBody))).toMatchObject({ status: 400 });
    });
  });

  describe('of the wrong size or kind', () => {
    test('a body of 256 KiB is accepted, and one byte more is refused', async () => {
      const padded = (length: number) => json({ reason: 5 }).padEnd(length);
      const path = '/v1/orders/ORDER/cancel';
      expectInvalid(await post(path, padded(BODY_BYTES_MAX)), '/reason', /string|text/);
      const response = await post(path, padded(BODY_BYTES_MAX + 1));
      expect(problemOf(response)).toMatchObject({ status: 413, code: 'body_too_large' });
    });

    test.each(['content-length', 'transfer-encoding'])('10 MB are refused: %s', async (header) => {
      const body = withField({ customerId: 'c'.repeat(10_000_000) });
      const length = body.length;
      const [value, bytes] =
        header === 'content-length'
          ? [length, body]
          : ['chunked', `${length.toString(16)}\r\n${body}\r\n0\r\n\r\n`];
      const response = await exchangeRaw(
        service.url,
        `${head('POST /v1/orders')}${header}: ${value}\r\n\r\n${bytes}`,
      );
      expect(problemOf(response)).toMatchObject({ status: 413, code: 'body_too_large' });
    });

    test.each([
      ['text/plain', {}],
      ['application/xml', {}],
      ['application/x-www-form-urlencoded', {}],
      ['application/json; charset=latin1', {}],
      ['application/json', { 'content-encoding': 'gzip' }],
    ])('a body of %s %o is refused', async (type, more) => {
      const headers = { 'content-type': type, ...more };
      const response = await request('POST', '/v1/orders', { body: placeBody, headers });
      expect(problemOf(response)).toMatchObject({ status: 415, code: 'unsupported_media_type' });
    });
  });

  describe('in the address', () => {
    const valid = {
      pay: { paymentId: 'p', amountCents: 2500 },
      ship: { trackingNumber: 't', carrier: 'c' },
      cancel: { reason: 'r' },
      refund: { refundId: 'r', amountCents: 1 },
    };

    test.each(Object.entries(valid))('an unknown or malformed id: %s', async (name, body) => {
      const unknown = await request('POST', `/v1/orders/${randomUUID()}/${name}`, { body });
      expect(problemOf(unknown)).toMatchObject({ status: 404, code: 'order_not_found' });
      for (const id of ['abc', `${randomUUID()}0`, '%00', 'x'.repeat(90)]) {
        const malformed = await request('POST', `/v1/orders/${id}/${name}`, { body });
        expectInvalid(malformed, 'path/orderId', /UUID/);
      }
    });

    test.each(['', '/events', '?version=1', '?at=2026-01-01T00:00:00Z'])(
      'an unknown or malformed id: GET %s',
      async (rest) => {
        const unknown = await request('GET', `/v1/orders/${randomUUID()}${rest}`);
        expect(problemOf(unknown)).toMatchObject({ status: 404, code: 'order_not_found' });
        expectInvalid(await request('GET', `/v1/orders/abc${rest}`), 'path/orderId', /UUID/);
      },
    );

    test.each<[string, string, RegExp]>([
      ['limit=0', 'query/limit', /1 to 100/],
      ['limit=101', 'query/limit', /1 to 100/],
      ['limit=-1', 'query/limit', /1 to 100/],
      ['limit=1.0', 'query/limit', /1 to 100/],
      ['limit=1e1', 'query/limit', /1 to 100/],
      ['limit=%201', 'query/limit', /1 to 100/],
      ['limit=', 'query/limit', /1 to 100/],
      ['limit=ten', 'query/limit', /1 to 100/],
      ['limit=1&limit=2', 'query/limit', /once/],
      ['status=PAID', 'query/status', /pending.*paid.*shipped.*cancelled/],
      ['status=', 'query/status', /pending/],
      ['status=paid&status=pending', 'query/status', /once/],
      ['customerId=', 'query/customerId', /empty/],
      ['customerId=%00', 'query/customerId', /U\+0000/],
      [`customerId=${'c'.repeat(65)}`, 'query/customerId', /64/],
      ['placedFrom=yesterday', 'query/placedFrom', /instant/],
      ['placedFrom=2026-02-30T00:00:00Z', 'query/placedFrom', /instant/],
      ['placedFrom=2026-01-01', 'query/placedFrom', /instant/],
      ['placedTo=2026-01-01T00:00:00', 'query/placedTo', /instant/],
      ['placedTo=2026-01-01T00:00:00%2B01:00', 'query/placedTo', /instant/],
      ['placedTo=1767225600000', 'query/placedTo', /instant/],
      ['cursor=', 'query/cursor', /./],
      ['cursor=broken', 'query/cursor', /./],
      ['cursor=%00', 'query/cursor', /./],
      ['cursor=bnVsbA', 'query/cursor', /./],
      ['cursor=e30', 'query/cursor', /./],
      ['cursor=W10', 'query/cursor', /./],
      [`cursor=${'a'.repeat(1001)}`, 'query/cursor', /./],
      ['customerId=%ff', 'query/customerId', /percent encoding/],
      ['customerId=%zz', 'query/customerId', /percent encoding/],
      ['customerId=a%', 'query/customerId', /percent encoding/],
      ['customerId=%c0%af', 'query/customerId', /percent encoding/],
      ['customerId=%ed%a0%80', 'query/customerId', /percent encoding/],
      ['customerId=a=%f8%88%80%80%80', 'query/customerId', /percent encoding/],
      ['%ff=a', 'query', /percent encoding/],
      ['status=paid&cursor=%e2%82', 'query/cursor', /percent encoding/],
      ['order=asc', 'query/order', /not a known/],
      ['Status=paid', 'query/Status', /not a known/],
    ])('GET /v1/orders?%s', async (query, pointer, rule) => {
      const response = await request('GET', `/v1/orders?${query}`);
      const { status, errors } = problemOf(response);
      expect(status).toBe(400);
      expect(errors).toContainEqual({ pointer, message: expect.stringMatching(rule) });
    });

    test.each(['/v1/orders/ORDER', '/v1/stock', '/livez', '/openapi.json'])(
      'a query that is not UTF-8 is refused: %s',
      async (path) => {
        const { errors } = problemOf(await request('GET', `${path}?version=%ff`));
        expect(errors).toContainEqual({
          pointer: 'query/version',
          message: 'has a percent encoding that is not UTF-8',
        });
      },
    );

    test.each<[string, string]>([
      ['version=0', 'query/version'],
      ['version=-1', 'query/version'],
      ['version=1.5', 'query/version'],
      ['version=v1', 'query/version'],
      ['version=9007199254740992', 'query/version'],
      ['version=', 'query/version'],
      ['version=1&version=1', 'query/version'],
      ['at=now', 'query/at'],
      ['at=2026-13-01T00:00:00Z', 'query/at'],
      ['version=1&at=2026-01-01T00:00:00Z', 'query/at'],
      ['limit=1', 'query/limit'],
    ])('GET /v1/orders/{id}?%s', async (query, pointer) => {
      expectInvalid(await request('GET', `/v1/orders/ORDER?${query}`), pointer, /./);
    });

    test.each(['version=2', 'version=2147483647', 'at=2000-01-01T00:00:00Z'])(
      'GET /v1/orders/{id}?%s is before or after its time',
      async (query) => {
        const problem = problemOf(await request('GET', `/v1/orders/ORDER?${query}`));
        expect(problem).toMatchObject({ status: 404, code: 'order_version_not_found' });
      },
    );

    test.each([
      ['GET', '/nothing', 404],
      ['GET', '/v1/orders/ORDER/nothing', 404],
      ['GET', '/v1/orders/', 400],
      ['GET', '//v1/orders', 404],
      ['GET', '/v1/ORDERS', 404],
      ['GET', '/%zz', 400],
      ['GET', '/v1/orders/%zz', 400],
      ['GET', '/v1/orders/ORDER/pay', 405],
      ['DELETE', '/v1/orders/ORDER', 405],
      ['PUT', '/v1/orders', 405],
      ['PATCH', '/v1/orders/ORDER', 405],
    ])('%s %s gets %i', async (method, path, status) => {
      const response = await request(method, path);
      expect(problemOf(response).status).toBe(status);
      if (status === 405) expect(response.headers['allow']).toMatch(/GET|POST/);
    });
  });

  describe('in a header', () => {
    const type = ['content-type', 'application/json'];
    const place = (...rawHeaders: string[]) =>
      request('POST', '/v1/orders', {
        rawBody: json(placeBody),
        rawHeaders: [
          'host',
          'localhost',
          'content-length',
          `${json(placeBody).length}`,
          ...rawHeaders,
        ],
      });

    test.each([
      ['Idempotency-Key', [...type, 'idempotency-key', 'a', 'Idempotency-Key', 'b']],
      ['Idempotency-Key', [...type, 'idempotency-key', 'a', 'idempotency-key', 'a']],
      ['Content-Type', [...type, ...type]],
    ])('%s sent twice is refused: %o', async (name, headers) => {
      expectInvalid(await place(...headers), `header/${name}`, /once/);
    });

    test.each(['', ' ', 'a b', 'k'.repeat(256), '"', '"a', 'a"b', '"a"b"', '""', 'a,b c'])(
      'Idempotency-Key %j is refused',
      async (key) => {
        const response = await place(...type, 'idempotency-key', key);
        expectInvalid(response, 'header/Idempotency-Key', /1 to 255/);
      },
    );

    test.each(['v1', '"v1', '"v1""v2"', '', 'W/v1'])('If-Match %j is refused', async (tag) => {
      const response = await request('POST', '/v1/orders/ORDER/cancel', {
        body: { reason: 'r' },
        headers: { 'if-match': tag },
      });
      expectInvalid(response, 'header/If-Match', /./);
    });
  });

  describe('that is not HTTP', () => {
    const place = head('POST /v1/orders');
    const body = json(placeBody);
    test.each([
      ['no request', 'GARBAGE\r\n\r\n'],
      ['another protocol', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
      ['an unknown method', 'FOO /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n'],
      ['no host', 'GET /v1/orders HTTP/1.1\r\nConnection: close\r\n\r\n'],
      ['two hosts', `${place}Host: b\r\n\r\n`],
      ['a control character in a header', `${place}X: a\0\r\n\r\n`],
      ['two lengths', `${place}Content-Length: ${body.length}\r\nContent-Length: 5\r\n\r\n${body}`],
      [
        'a length and chunks',
        `${place}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      ],
      ['a chunk without a length', `${place}Transfer-Encoding: chunked\r\n\r\nzz\r\n`],
      ['a length that is none', `${place}Content-Length: -1\r\n\r\n${body}`],
      ['an expectation that nobody has', `${place}Expect: a-miracle\r\nContent-Length: 0\r\n\r\n`],
      ['headers without end', `${place}X: ${'x'.repeat(70_000)}\r\n\r\n`],
    ])('%s is a problem like any other', async (_, bytes) => {
      const { status } = problemOf(await exchangeRaw(service.url, bytes));
      expect([400, 417, 431]).toContain(status);
    });
  });
});

/** The beginning of a request after which the server closes the connection. */
function head(line: string): string {
  return `${line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n`;
}

function expectInvalid(response: HttpResponse, pointer: string, rule: RegExp): void {
  const { status, code, errors, detail } = problemOf(response);
  expect({ status, code }).toEqual({ status: 400, code: 'invalid_request' });
  expect(errors).toContainEqual({ pointer, message: expect.stringMatching(rule) });
  expect(new Set(errors?.map((error) => error.pointer))).toEqual(new Set([pointer]));
  expect(detail).toContain(pointer);
}
