import { describe, expect, test } from 'vitest';
import type { StoredEvent } from '#src/event-store/event-store.ts';
import type { Work } from '#src/event-store/group-commit.ts';
import type { OrderCommand } from '#src/orders/domain/order-commands.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import { createOrderCommandHandler } from '#src/orders/handle-order-command.ts';
import type { OrderRows } from '#src/orders/order-units.ts';
import * as a from '#test/support/orders.ts';

const metadata = { correlationId: 'c', actor: 'a' };

/** What the command is answered on an order with these events; nothing is written. */
function answerOn(events: readonly OrderEvent[], command: OrderCommand) {
  const stored = events.map((event, index): StoredEvent => ({
    ...event,
    streamId: a.orderId,
    version: index + 1,
    position: index + 1,
    schemaVersion: 1,
    metadata,
    recordedAt: '2026-01-01T00:00:00.000Z',
  }));
  const submit = async <Result>({ decide }: Work<OrderRows, Result>) =>
    decide({ stream: () => stored, answer: () => null }).result;
  const handle = createOrderCommandHandler({
    commit: { submit, waiting: () => 0, idle: async () => {} },
    now: () => new Date('2026-01-02'),
    topic: 'orders',
    outboxIsFull: () => false,
    followUp: () => ({ appends: [], sagas: [] }),
  });
  return handle({ orderId: a.orderId, command, metadata });
}

describe('while its saga undoes the order', () => {
  const undone = [a.placed, a.fulfilmentStarted, a.paid, a.cancellationRequested];

  test('a cancellation is accepted, and so is its repeat', async () => {
    expect(await answerOn(undone.slice(0, 3), a.cancel)).toMatchObject({ status: 202 });
    expect(await answerOn(undone, a.cancel)).toMatchObject({ status: 202 });
  });

  test('a payment that was made is told as made', async () => {
    expect(await answerOn(undone, a.pay)).toMatchObject({ status: 200, etag: '"v4"' });
  });
});
