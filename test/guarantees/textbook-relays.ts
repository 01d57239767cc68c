import type { Producer } from 'kafkajs';
import { createKafkaClient } from '#src/outbox/kafkajs-client.ts';
import { messageFrom } from '#src/outbox/outbox.ts';
import type { OutboxRow } from '#src/outbox/outbox.ts';
import type { TestDatabase } from '#test/support/database.ts';
import { quiet } from '../outbox/outbox-fixture.ts';

/*
 * Relays as textbooks show them, each with the bug that its name tells. The tests hold ours to the same
 * check that catches these.
 */
type TextbookRelay = Readonly<{
  read(): Promise<OutboxRow[]>;
  publish(rows: readonly OutboxRow[]): Promise<void>;
}>;

type TextbookParts = Readonly<{ db: TestDatabase; topic: string; producer: Producer }>;

/** Locks the rows in a statement of its own: the locks end with it, before anything is published. */
export function lockingOutsideTransaction(parts: TextbookParts): TextbookRelay {
  return {
    read: () => select(parts, 'order by id limit 100 for update skip locked'),
    publish: async (rows) => {
      await send(parts, rows);
      await remove(parts, rows);
    },
  };
}

/** Reads by the time of creation, which every replica takes from a clock of its own. */
export function orderingByTimestamp(parts: TextbookParts): TextbookRelay {
  return {
    read: () => select(parts, 'order by created_at limit 100'),
    publish: async (rows) => {
      await send(parts, rows);
      await remove(parts, rows);
    },
  };
}

/** Leaves what fails for later and goes on with the next row, which may be of the same key. */
export function goingOnPastFailure(parts: TextbookParts): TextbookRelay {
  return {
    read: () => select(parts, 'order by id limit 100'),
    publish: async (rows) => {
      for (const row of rows) {
        await send(parts, [row]).then(
          () => remove(parts, [row]),
          () => undefined,
        );
      }
    },
  };
}

/** Takes the end of the attempt for its success. */
export function markingWhateverHappened(parts: TextbookParts): TextbookRelay {
  return {
    read: () => select(parts, 'order by id limit 100'),
    publish: async (rows) => {
      await send(parts, rows).catch(() => undefined);
      await remove(parts, rows);
    },
  };
}

/** A producer as the first page of the manual has it. */
export async function textbookProducer(brokers: readonly string[]) {
  const { kafka, destroy } = createKafkaClient({ brokers }, quiet);
  const producer = kafka.producer();
  await producer.connect();
  return {
    producer,
    [Symbol.asyncDispose]: async () => {
      await producer.disconnect();
      destroy();
    },
  };
}

function select({ db }: TextbookParts, howMany: string): Promise<OutboxRow[]> {
  return db.query<OutboxRow>(`select * from outbox_events ${howMany}`);
}

async function send({ topic, producer }: TextbookParts, rows: readonly OutboxRow[]): Promise<void> {
  await producer.send({ topic, messages: rows.map(messageFrom) });
}

async function remove({ db }: TextbookParts, rows: readonly OutboxRow[]): Promise<void> {
  await db.query('delete from outbox_events where id = any($1)', [rows.map(({ id }) => id)]);
}
