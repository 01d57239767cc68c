import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { historyViolations, topicViolations } from './checker.ts';
import { createTestDatabase } from './database.ts';
import type { TestDatabase } from './database.ts';
import { skipReason } from './infra.ts';
import type { ReadMessage } from './kafka.ts';
import { createRecorder, orderIn } from './recorder.ts';
import type { Call } from './recorder.ts';
import { startService } from './service.ts';
import { readStored, readStoredBy, verifyDatabase, verifyStored } from './verify-database.ts';
import type { Stored } from './verify-database.ts';

/*
 * The guarantee tests rely on these checks, so each check is given a violation that it must find.
 */
describe.skipIf(skipReason('postgres'))('the checks of the guarantee tests', () => {
  const recorder = createRecorder();
  let database: TestDatabase;
  let client: Client;
  let stored: Stored;

  beforeAll(async () => {
    database = await createTestDatabase();
    await using service = await startService({ databaseUrl: database.url });
    const { api } = service;
    for (const key of ['first', 'second']) {
      const order = orderIn(await recorder.place(api, { key }));
      await recorder.send(api, 'ship', order);
      await recorder.send(api, 'pay', order, { key: `pay ${key}`.replace(' ', '-') });
      await recorder.read(api, order.orderId);
      await recorder.send(api, key === 'first' ? 'ship' : 'cancel', order);
      if (key === 'second') await recorder.send(api, 'refund', order);
    }
    stored = await readStored(database.url);
    client = new Client({ connectionString: database.url });
    await client.connect();
  });
  afterAll(async () => {
    await client.end();
    await database[Symbol.asyncDispose]();
  });

  test('find nothing in a sound database', async () => {
    expect(await verifyDatabase(database.url, { relay: 'off' })).toEqual([]);
    expect(await verifyDatabase(database.url, { relay: 'on' })).toEqual([]);
    expect(historyViolations(recorder.calls, stored)).toEqual([]);
  });

  const paid = `type = 'PaymentCaptured'`;
  test.each([
    ['an event is missing', `delete from events where ${paid}`, /version 3 at place 2/],
    ['the last events are missing', `delete from events where version > 2`, /streams says 3/],
    ['a version is there twice', `update events set version = 2 where version = 3`, /2 at place 3/],
    ['versions are against positions', swapped('events', 'position'), /version 2 at place 1/],
    [
      'time goes back',
      `update events set recorded_at = '2000-01-01' where version = 2`,
      /recorded before/,
    ],
    [
      'an amount is another',
      `update events set data = data || '{"amountCents": 1}' where ${paid}`,
      /only a paid order is shipped/,
    ],
    [
      'an event cannot follow',
      `update events set type = 'OrderShipped',
         data = '{"trackingNumber": "T", "carrier": "c"}' where ${paid}`,
      /only a paid/,
    ],
    [
      'an event is of no kind',
      `update events set type = 'OrderLost' where ${paid}`,
      /another kind/,
    ],
    [
      'a total is wrong',
      `update events set data = data || '{"totalCents": 1}' where version = 1`,
      /the total is 2500/,
    ],
    [
      'a stream has no events',
      `insert into streams select gen_random_uuid(), 'order', 0`,
      /streams says 0/,
    ],
    ['a stream has no row', `delete from streams`, /streams says no row/],
    ['a head is behind', `update streams set version = 2`, /streams says 2/],
    ['a summary is missing', `delete from orders_summary`, /no summary/],
    ['a summary is of no order', `delete from events`, /the fold is undefined/],
    [
      'a summary is behind',
      `update orders_summary set version = 2`,
      /the summary is .*"version":2/,
    ],
    ['a status differs', `update orders_summary set status = 'paid'`, /"status":"paid".* the fold/],
    ['an instant differs', `update orders_summary set paid_at = placed_at`, /the summary is/],
    ['an instant is missing', `update orders_summary set paid_at = null`, /the summary is/],
    ['money differs', `update orders_summary set refunded_cents = 1`, /"refundedCents":1/],
    ['skus differ', `update orders_summary set skus = '["pen"]'`, /"skus":.*pen.* the fold/],
    ['an order is not found by its sku', `delete from order_skus`, /order_skus lacks/],
    [
      'an order is found by another sku',
      `update order_skus set sku = sku || '-2'`,
      /order_skus has/,
    ],
    ['a message is missing', `delete from outbox_events where stream_version = 2`, /holds 1,3/],
    [
      'a message is there twice',
      `insert into outbox_events (aggregate_type, aggregate_id, event_type, stream_version, topic,
         message_key, key_hash, ce_id, ce_type, ce_source, ce_time, ce_subject, ce_sequence, payload)
       select aggregate_type, aggregate_id, event_type, stream_version, topic, message_key, key_hash,
         ce_id, ce_type, ce_source, ce_time, ce_subject, ce_sequence, payload from outbox_events`,
      /holds 1,2,3,1,2,3/,
    ],
    ['messages are out of order', swapped('outbox_events', 'id'), /holds 2,1,3|holds 2,1,3/],
    [
      'a message says something else',
      `update outbox_events set payload = '{}'`,
      /outbox 1: .* is not/,
    ],
    ['a message has another key', `update outbox_events set message_key = 'x'`, /outbox 1: /],
    [
      'a response is of no effect',
      `update idempotency_keys set body = replace(body, '"version":2', '"version":9'),
         etag = '"v9"' where key like 'pay%'`,
      /its effect is not there/,
    ],
    [
      'a response shows something else',
      `update idempotency_keys set body = replace(body, 'EUR', 'USD')`,
      /the fold is/,
    ],
    ['a response has another ETag', `update idempotency_keys set etag = '"v7"'`, /another ETag/],
    ['a response has another Location', `update idempotency_keys set location = '/x'`, /Location/],
    ['a refusal is kept', `update idempotency_keys set status = 409`, /not a 2xx/],
  ])('find that %s', async (_, sql, expected) => {
    await client.query('begin');
    try {
      await client.query(`alter table events disable trigger user`);
      await client.query(`alter table events drop constraint events_stream_id_version_key`);
      await client.query(sql);
      const found = verifyStored(await readStoredBy(client), { relay: 'off' });
      expect(found.join('\n')).toMatch(expected);
    } finally {
      await client.query('rollback');
    }
  });

  test('find that a relay took a message before an earlier one', async () => {
    await client.query('begin');
    await client.query('delete from outbox_events where stream_version = 1');
    expect(verifyStored(await readStoredBy(client), { relay: 'on' })).toEqual([]);
    await client.query('rollback; begin');
    await client.query('delete from outbox_events where stream_version = 2');
    const found = verifyStored(await readStoredBy(client), { relay: 'on' });
    await client.query('rollback');
    expect(found.join('\n')).toMatch(/the outbox holds 1,3, not 1,2,3/);
  });

  const without = (type: string): Stored => ({
    ...stored,
    events: stored.events.filter((event) => event.type !== type),
  });
  const changed = (wanted: (call: Call) => boolean, change: Partial<Call>): Call[] =>
    recorder.calls.map((call) => (wanted(call) ? { ...call, ...change } : call));
  const isPay = ({ operation }: Call) => operation === 'pay';
  const isKeptPay = ({ key }: Call) => key === 'pay-second';

  test('find that an acknowledged command is lost', () => {
    const found = historyViolations(recorder.calls, without('OrderShipped')).join('\n');
    expect(found).toMatch(/ship got .* stored is undefined/);
    const cut = changed(isPay, { order: recorder.calls[0]!.order! });
    expect(historyViolations(cut, without('PaymentCaptured')).join('\n')).toMatch(/and is lost/);
  });

  test('find that a command took effect twice', () => {
    const payment = stored.events.find(({ type }) => type === 'PaymentCaptured')!;
    const events = [...stored.events, { ...payment, position: 99, version: 4 }];
    const found = historyViolations(recorder.calls, { ...stored, events }).join('\n');
    expect(found).toMatch(/took effect 2 times/);
  });

  test('find that a command took effect though it was turned away', () => {
    const calls = changed(isPay, { outcome: 'fail' });
    expect(historyViolations(calls, stored).join('\n')).toMatch(/though it was turned away/);
    expect(historyViolations(changed(isPay, { outcome: 'info' }), stored)).toEqual([]);
  });

  test('find that nobody sent a command', () => {
    const calls = recorder.calls.filter((call) => !isPay(call));
    expect(historyViolations(calls, stored).join('\n')).toMatch(/nobody sent/);
  });

  test('find that a key has two responses', () => {
    const kept = recorder.calls.find(isKeptPay)!;
    const other = { ...kept, isReplayed: true, response: { ...kept.response!, text: '{}' } };
    const found = historyViolations([...recorder.calls, other], stored).join('\n');
    expect(found).toMatch(/the key pay-second has two responses/);
  });

  test('find that a reader saw an older state', () => {
    const placed = recorder.calls[0]!;
    const later = performance.now();
    const stale: Call = { ...placed, operation: 'read', invokedAt: later, completedAt: later + 1 };
    const found = historyViolations([...recorder.calls, stale], stored).join('\n');
    expect(found).toMatch(/read saw v1 after v3 was seen/);
    const early = { ...stale, invokedAt: placed.completedAt };
    expect(historyViolations([...recorder.calls, early], stored)).toEqual([]);
  });

  test('find in a topic what is missing, out of order, strange, or differs when repeated', () => {
    const messages = stored.events.map(messageOf);
    const [first, second, ...rest] = messages;
    const inTopic = (...read: readonly ReadMessage[]) =>
      topicViolations(read, stored.events).join('\n');
    expect(inTopic(...messages)).toBe('');
    expect(inTopic(first!, second!, first!, second!, ...rest)).toBe('');
    expect(inTopic(first!, ...rest)).toMatch(/the topic holds 1,3, the events are 1,2,3/);
    expect(inTopic(second!, first!, ...rest)).toMatch(/the topic holds 2,1,3/);
    expect(inTopic(...messages, { ...first!, value: '{}' })).toMatch(/sent again and differs/);
    expect(inTopic(...messages, { ...first!, partition: 2 })).toMatch(/in several partitions/);
    expect(inTopic(...messages, { ...first!, key: 'x' })).toMatch(/x: a message of no order/);
  });
});

/** Swaps the first two rows of each stream. */
function swapped(table: 'events' | 'outbox_events', id: 'position' | 'id'): string {
  const [stream, version] =
    table === 'events' ? ['stream_id', 'version'] : ['aggregate_id', 'stream_version'];
  return `update ${table} t set ${version} = 3 - ${version} where ${version} < 3
          and exists (select from ${table} o where o.${stream} = t.${stream} and o.${id} <> t.${id})`;
}

function messageOf({ stream_id, version, position }: Stored['events'][number]): ReadMessage {
  const headers = { ce_id: `${stream_id}-${version}`, ce_sequence: String(version) };
  return { partition: 0, offset: position, key: stream_id, headers, value: '' };
}
