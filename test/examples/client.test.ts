import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createOrderClient } from '../../examples/client.ts';
import { tour } from '../../examples/tour.ts';
import { createKey } from '#test/support/api-keys.ts';
import { skipReason } from '#test/support/infra.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';
import { areCurrent, generateTypes, hashOf } from './client-types.ts';

describe.skipIf(skipReason('postgres'))('the example', () => {
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

  test('client has the types of the present API', async () => {
    const document = (await replica.api.request('GET', '/openapi.json')).text;
    if (process.env['CLIENT'] === 'generate') await generateTypes(document);
    const advice = 'the OpenAPI document has changed: run `npm run client` and commit the result';
    expect(await areCurrent(document), advice).toBe(true);
    const renamed = document.replaceAll('"owedCents"', '"description"');
    const optional = document.replace('"required":["orderId",', '"required":[');
    for (const changed of [renamed, optional]) {
      expect(changed).not.toBe(document);
      expect(await areCurrent(changed)).toBe(false);
    }
    const told = document.replaceAll(
      /"description":"(?:[^"\\]|\\.)*"/g,
      '"description":"Anything."',
    );
    expect(hashOf(told)).toBe(hashOf(document));
  });

  test('tour walks through the life of orders, with an API key', async () => {
    await using closed = await startReplica(world, { env: { AUTH: 'on' } });
    await expect(tour(createOrderClient(closed.url), () => {})).rejects.toThrow('unauthenticated');
    const key = await createKey(world.database.url);
    const lines: string[] = [];
    await tour(createOrderClient(closed.url, key), (line) => lines.push(line));
    expect(lines.map((line) => line.replaceAll(/[0-9a-f]{8}-[0-9a-f-]+/g, 'id'))).toEqual([
      'placed   id: 2500 cents, pending',
      'paid     id: version 2, paid',
      'retried  the same payment: version 2, replayed true',
      'shipped  with a response of 204, without a body',
      expect.stringMatching(/^refused {2}to cancel it: order_already_shipped, /),
      'read     shipped; it was pending; 304 next',
      'history  OrderPlaced, PaymentCaptured, OrderShipped',
      "listed   1 of the customer's orders, the newest first",
      'cancel   a paid order: it owes 2500 cents',
      'refunded 2500 cents: it owes 0',
      'placed   id: 2 lines, 3290 cents with shipping',
      'shipped  a parcel: paid, partially_shipped',
      'shipped  the rest: shipped, shipped',
      'returned one book, and refunded 1250: partially_refunded',
      'address  in Berlin',
      'erased   the address is gone, and all 8 events are there',
      'fulfilled id: reserve done, capture done, ship done',
      'refunded by the provider: 202 first, then refunded',
    ]);
  });

  test('requests all succeed', async () => {
    const file = await readFile('examples/requests.http', 'utf8');
    const statuses = await sendAll(file, replica);
    const placed = [201, 200, 200, 204, 200, 200, 200];
    const inParcels = [201, ...Array.from({ length: 14 }, () => 200)];
    const automatic = [200, 201, 200, 200, 200, 200];
    expect(statuses).toEqual([...placed, ...inParcels, ...automatic]);
    // The first title is that of the file.
    expect(file.match(/^### /gm)).toHaveLength(statuses.length + 1);
  });
});

const REQUEST =
  /^(?:# @name (?<name>\w+)\n)?(?<method>GET|PUT|POST|DELETE) (?<path>\S+)\n(?<rest>[^]*)$/m;

/** Sends the requests of a file for editors, one after the other. Returns the statuses of the responses. */
async function sendAll(file: string, { api }: Replica): Promise<number[]> {
  const bodies = new Map<string, Record<string, string>>();
  const filled = (text: string) =>
    text
      .replace('{{host}}', '')
      .replaceAll('{{$guid}}', () => crypto.randomUUID())
      .replaceAll(
        /\{\{(\w+)\.response\.body\.(\w+)\}\}/g,
        (_, name: string, member: string) => bodies.get(name)![member]!,
      );
  const statuses: number[] = [];
  for (const block of file.split(/^###.*\n/m)) {
    const { name, method, path, rest = '' } = REQUEST.exec(block)?.groups ?? {};
    if (method === undefined || path === undefined) continue;
    const [head = '', body] = filled(rest).split('\n\n');
    const headers = head.split('\n').flatMap((line) => {
      const [header = '', ...value] = line.split(': ');
      return header === '' ? [] : [[header.toLowerCase(), value.join(': ')] as const];
    });
    const { status, text } = await api.request(method, filled(path), {
      headers: Object.fromEntries(headers),
      ...(body && { rawBody: body.trim() }),
    });
    if (name !== undefined) bodies.set(name, JSON.parse(text));
    statuses.push(status);
  }
  return statuses;
}
