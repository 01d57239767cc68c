import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';
import { operation } from './simulated-call.ts';

/** One thing that really happened. `refusal` and `tombstone` settle a key without an effect. */
export const ledgerEntry = z.object({
  number: z.int(),
  at: z.iso.datetime(),
  effect: z.enum(['capture', 'refund', 'shipment', 'refusal', 'tombstone']),
  operation,
  key: z.string(),
  orderId: z.string(),
  attempt: z.int(),
  amountCents: z.int().optional(),
  currency: z.string().optional(),
  paymentId: z.string().optional(),
  /** What was asked, and what every repeat of it is answered. */
  request: z.string(),
  answer: z.object({ status: z.int(), body: z.record(z.string(), z.unknown()) }),
});
export type LedgerEntry = Readonly<z.infer<typeof ledgerEntry>>;

/** What has happened, in order. An entry is in the file before `append` returns. */
export type Ledger = Readonly<{
  entries: readonly LedgerEntry[];
  append(entry: Omit<LedgerEntry, 'number' | 'at'>): LedgerEntry;
  close(): void;
}>;

/**
 * Opens a file of JSON lines, one entry a line. Each is one write before anything is answered, so
 * that it outlives the process; it is not flushed, so a loss of power can take the last ones.
 * @throws Error if the file holds anything but entries
 */
export function openLedger(file: string): Ledger {
  mkdirSync(dirname(file), { recursive: true });
  const descriptor = openSync(file, 'a+');
  const text = readFileSync(file, 'utf8');
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  if (whole.length < text.length) ftruncateSync(descriptor, Buffer.byteLength(whole));
  const entries = whole
    .split('\n')
    .slice(0, -1)
    .map((line) => ledgerEntry.parse(JSON.parse(line)));

  return {
    entries,
    append: (effect) => {
      const entry = { number: entries.length + 1, at: new Date().toISOString(), ...effect };
      writeSync(descriptor, `${JSON.stringify(entry)}\n`);
      entries.push(entry);
      return entry;
    },
    close: () => closeSync(descriptor),
  };
}
