import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { HttpResponse } from '#test/support/http-client.ts';
import { skipReason } from '#test/support/infra.ts';
import { eventually } from '#test/support/poll.ts';
import { refusalOf } from '#test/support/saga/api.ts';
import { createSagaWorld, startReplica } from '#test/support/saga/world.ts';
import type { Replica, SagaWorld } from '#test/support/saga/world.ts';
import { COMMANDS, commandOperations, commandScenarios } from './command-scenarios.ts';
import type { Ready } from './command-scenarios.ts';

/*
 * Every command of the service honours the headers by which a caller guards it, or refuses them: none is
 * ignored. The commands come from the OpenAPI document, so that a new one cannot be forgotten.
 */
const NOT_HONOURED = '400 header_not_honoured';

describe.skipIf(skipReason('postgres'))('a guarding header of a command', () => {
  let world: SagaWorld;
  let replica: Replica;
  let scenarios: ReturnType<typeof commandScenarios>;
  /** By operation: the guarding headers that the document says it takes. */
  let documented: ReadonlyMap<string, readonly string[]>;

  beforeAll(async () => {
    world = await createSagaWorld();
    replica = await startReplica(world);
    scenarios = commandScenarios(world, replica.api);
    const operations = await commandOperations(replica.api);
    documented = new Map(
      operations.map(({ operationId, parameters }) => [
        operationId,
        parameters.filter((parameter) => parameter.in === 'header').map(({ name }) => name),
      ]),
    );
  });
  afterAll(async () => {
    await replica[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
  });

  const send = ({ method, path, body }: Ready, headers: Readonly<Record<string, string>> = {}) =>
    replica.api.request(method, path, {
      ...(body !== undefined && { rawBody: JSON.stringify(body) }),
      headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
    });
  const etagOf = async ({ resource }: Ready) =>
    String((await replica.api.request('GET', resource!)).headers['etag']);
  /** Without which the command is not taken at all. */
  const needed = (name: string): Readonly<Record<string, string>> =>
    name.startsWith('resolve') ? { 'if-match': '*' } : {};
  /** What a request has written: events by its id, and the stock. */
  const written = async ({ headers }: HttpResponse) => {
    const requestId = headers['x-request-id'];
    const [row] = await world.database.query<{ events: number; stock: string }>(
      `select (select count(*) from events where metadata ->> 'correlationId' = $1
                 and metadata ->> 'causationId' is null) as events,
              (select string_agg(sku || on_hand || updated_at, ',' order by sku) from stock) as stock`,
      [requestId],
    );
    return row!;
  };
  const stockNow = async () => (await written(await replica.api.request('GET', '/livez'))).stock;

  test('is tested for every command of the service', () => {
    expect([...documented.keys()].toSorted()).toEqual(COMMANDS.toSorted());
    expect(Object.keys(scenarios).toSorted()).toEqual(COMMANDS.toSorted());
  });

  test.each(COMMANDS)('%s: Idempotency-Key', async (name) => {
    const ready = await scenarios[name]!();
    const headers = { ...needed(name), 'idempotency-key': randomUUID() };
    const first = await send(ready, headers);
    if (!documented.get(name)!.includes('Idempotency-Key')) {
      expect(refusalOf(first)).toBe(NOT_HONOURED);
      return;
    }
    expect(first.status, first.text).toBeLessThan(300);
    const stock = (await written(first)).stock;
    const second = await send(ready, headers);
    expect(second.text).toBe(first.text);
    expect(second.status).toBe(first.status);
    expect(second.headers['idempotency-replayed']).toBe('true');
    for (const name of ['etag', 'location', 'content-type']) {
      expect(second.headers[name]).toBe(first.headers[name]);
    }
    expect((await written(second)).events).toBe(0);
    if (name.endsWith('Stock')) expect(await stockNow()).toBe(stock);

    if (ready.otherBody !== undefined) {
      const other = await send({ ...ready, body: ready.otherBody }, headers);
      expect(refusalOf(other)).toBe('422 idempotency_key_reused');
    }
    const elsewhere = await scenarios[name === 'payOrder' ? 'cancelOrder' : 'payOrder']!();
    expect(refusalOf(await send(elsewhere, headers))).toBe('422 idempotency_key_reused');
  });

  test.each(COMMANDS)('%s: Prefer, with and without which a replay is the same', async (name) => {
    const ready = await scenarios[name]!();
    expect(documented.get(name)).toContain('Prefer');
    const isKeyed = documented.get(name)!.includes('Idempotency-Key');
    const headers = { ...needed(name), ...(isKeyed && { 'idempotency-key': randomUUID() }) };
    const first = await send(ready, { ...headers, prefer: 'return=minimal' });
    expect(first.text).toBe('');
    expect(first.status).toBeOneOf([201, 202, 204]);
    expect(first.headers['preference-applied']).toBe('return=minimal');
    if (!isKeyed) return;
    const second = await send(ready, headers);
    expect(second.text).toMatch(/^\{.*\}$/);
    expect(second.status).toBe(first.status === 204 ? 200 : first.status);
    const third = await send(ready, { ...headers, prefer: 'return=minimal' });
    expect(third.text).toBe('');
    expect(third.status).toBe(first.status);
    for (const replay of [second, third]) {
      expect(replay.headers['idempotency-replayed']).toBe('true');
      expect(replay.headers['etag']).toBe(first.headers['etag']);
      expect(replay.headers['location']).toBe(first.headers['location']);
    }
  });

  test.each(COMMANDS)('%s: If-Match', async (name) => {
    const ready = await scenarios[name]!();
    const honoured = documented.get(name)!.includes('If-Match');
    for (const tag of ['"v999"', 'W/"v1"', '"nonsense"']) {
      const stock = await stockNow();
      const refused = await send(ready, { 'if-match': tag });
      const code = tag.startsWith('W/')
        ? 'if_match_weak'
        : '(version_mismatch|precondition_failed)';
      const expected = honoured ? new RegExp(`^412 ${code}$`) : new RegExp(NOT_HONOURED);
      expect(refusalOf(refused)).toMatch(expected);
      expect(await written(refused)).toMatchObject({ events: 0, stock });
    }
    for (const tag of ['nonsense', '"a', '"a" "b"']) {
      expect((await send(ready, { 'if-match': tag })).status).toBe(400);
    }
    if (!honoured) return;
    const etag = await etagOf(ready);
    const accepted = await send(ready, { 'if-match': `"other", ${etag}` });
    expect(accepted.status, accepted.text).toBeLessThan(300);
    expect(await etagOf(ready)).not.toBe(etag);
  });

  test.each(COMMANDS)('%s: If-None-Match', async (name) => {
    const ready = await scenarios[name]!();
    const stock = await stockNow();
    const honoured = documented.get(name)!.includes('If-None-Match');
    const refused = await send(ready, { ...needed(name), 'if-none-match': '*' });
    expect(refusalOf(refused)).toBe(honoured ? '412 precondition_failed' : NOT_HONOURED);
    expect(await written(refused)).toMatchObject({ events: 0, stock });
  });

  test('(If-Match) is required to resolve a stuck fulfilment', async () => {
    const ready = await scenarios['resolveFulfilment']!();
    expect(refusalOf(await send(ready))).toBe('428 precondition_required');
    const seen = await etagOf(ready);
    const orderId = ready.path.split('/')[3]!;
    await world.simulator.addFault({ operation: 'refund', orderId, fault: 'refuse', times: 1 });
    await replica.api.request('POST', ready.path.replace('resolve', 'retry'));
    const isStuckAgain = async () => {
      const { text, headers } = await replica.api.request('GET', ready.resource!);
      return headers['etag'] !== seen && text.includes('"state":"stuck"');
    };
    await eventually(isStuckAgain);
    // Whoever looked at the attempt before the retry knows nothing of the one after it.
    expect(refusalOf(await send(ready, { 'if-match': seen }))).toBe('412 precondition_failed');
  });
});
