import { randomUUID } from 'node:crypto';
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';
import type { SimulatedCall } from './calls.ts';
import { contentOf, details, isSame, pack, parcel } from './contents.ts';
import type { ActingRequest, Content, Parcel } from './contents.ts';
import { contractResponse, contractVersion, operation } from './contract.ts';
import type { ContractRequest, ContractResponse, ContractVersion, Operation } from './contract.ts';

/** One line of the ledger. `refusal` and `tombstone` settle a key without an effect. */
export const ledgerEntry = z.object({
  number: z.int(),
  at: z.iso.datetime(),
  effect: z.enum(['capture', 'refund', 'shipment', 'refusal', 'tombstone']),
  /** The version in which the key was settled. */
  contract: contractVersion.default(1),
  operation,
  key: z.string(),
  orderId: z.string(),
  attempt: z.int(),
  amountCents: z.int().optional(),
  currency: z.string().optional(),
  paymentId: z.string().optional(),
  parcels: z.array(parcel).optional(),
  /** What both versions know of the request, as JSON, and what only version 2 knows. */
  request: z.string(),
  details: details.exactOptional(),
  /** The response to the request and to every duplicate in the same version. */
  answer: contractResponse,
});
export type LedgerEntry = Readonly<z.infer<typeof ledgerEntry>>;

type Money = Readonly<{ amountCents: number; currency: string }>;
type Decision = Pick<
  LedgerEntry,
  'effect' | 'amountCents' | 'currency' | 'paymentId' | 'parcels' | 'answer'
>;

const REFUSALS = {
  capture: { status: 402, code: 'card_declined' },
  refund: { status: 422, code: 'refund_refused' },
  ship: { status: 422, code: 'carrier_refused' },
} as const;

/** What the provider does under a fresh key instead of what the request says. */
export type Twist = Readonly<{
  refuse?: boolean;
  alter?: (asked: Money) => Money;
  parcels?: number;
}>;

/** What both providers have done, and what they do and say next. */
export type ProviderBooks = Readonly<{
  /** What has happened, in order. */
  entries: readonly LedgerEntry[];
  /** Carries out a request and returns the honest response to it. */
  perform(call: SimulatedCall, request: ContractRequest, twist?: Twist): ContractResponse;
  close(): void;
}>;

/**
 * Opens the books on a ledger file, which is created if it is missing.
 * @throws Error if the file contains anything but ledger entries
 */
export function openProviderBooks(ledgerFile: string): ProviderBooks {
  const ledger = openLedger(ledgerFile);
  const keys = createSettledKeys(ledger);

  const cancel = (call: SimulatedCall): ContractResponse => {
    const known = keys.find(call);
    if (known?.effect === 'capture' || known?.effect === 'shipment') {
      const { status, body: result } = answerIn(call.contract, known);
      if (status !== 201) return { status, body: result };
      return { status: 200, body: { outcome: 'already_done', key: call.key, result } };
    }
    if (!known) {
      const answer = statement(409, 'refused', 'key_cancelled', call.key);
      keys.settle(call, { request: '' }, { effect: 'tombstone', answer });
    }
    return { status: 200, body: { outcome: 'cancelled', key: call.key } };
  };

  const lookUp = (call: SimulatedCall): ContractResponse => {
    const known = keys.find(call);
    if (!known || known.effect === 'refusal' || known.effect === 'tombstone')
      return statement(404, 'absent', 'not_found', call.key);
    const { status, body } = answerIn(call.contract, known);
    return { status: status === 201 ? 200 : status, body };
  };

  const decide = (call: SimulatedCall, request: ActingRequest, twist: Twist): Decision => {
    const { operation, body } = request;
    const { refuse, alter, parcels = 1 } = twist;
    if (refuse) return refusal(REFUSALS[operation], call.key);
    if (operation === 'ship') return ship(call, pack(body.items, parcels));
    const declined = operation === 'capture' && objectionToMethod(body.paymentMethod);
    if (declined) return refusal(declined, call.key);
    const asked = { amountCents: body.amountCents, currency: body.currency };
    const money = alter ? alter(asked) : asked;
    if (operation === 'capture') return capture(call, money);
    const objection = keys.objectionToRefund(body.paymentId, asked);
    if (objection !== undefined) return refusal({ status: 422, code: objection }, call.key);
    return refund(call, body.paymentId, money);
  };

  return {
    entries: ledger.entries,
    perform: (call, request, twist = {}) => {
      switch (request.operation) {
        case 'capture':
        case 'refund':
        case 'ship':
          return keys.once(call, contentOf(call.contract, request), () =>
            decide(call, request, twist),
          );
        case 'cancel_capture':
        case 'cancel_shipment':
          return cancel(call);
        case 'look_up_capture':
        case 'look_up_refund':
        case 'look_up_shipment':
          return lookUp(call);
      }
    },
    close: ledger.close,
  };
}

/**
 * The settled keys. They hold the promise that a key has one effect: nothing in here awaits, so concurrent
 * calls take turns, and the ledger outlives the process.
 */
function createSettledKeys(ledger: ReturnType<typeof openLedger>) {
  const settled = new Map<string, LedgerEntry>();
  const captures = new Map<string, LedgerEntry>();
  const refundedCents = new Map<string, number>();

  const index = (entry: LedgerEntry) => {
    settled.set(slot(entry), entry);
    const { effect, paymentId = '', amountCents = 0 } = entry;
    if (effect === 'capture') captures.set(paymentId, entry);
    if (effect === 'refund')
      refundedCents.set(paymentId, (refundedCents.get(paymentId) ?? 0) + amountCents);
  };
  for (const entry of ledger.entries) index(entry);

  const find = (call: SimulatedCall) => settled.get(slot(call));

  const settle = (call: SimulatedCall, content: Content, decision: Decision): ContractResponse => {
    const { contract, operation, key, orderId, attempt } = call;
    const of = { contract, operation, key, orderId, attempt };
    const entry = ledger.append({ ...of, ...content, ...decision });
    index(entry);
    return entry.answer;
  };

  return {
    find,
    settle,
    /** Decides under a fresh key only. A duplicate gets the first response. */
    once: (call: SimulatedCall, content: Content, decide: () => Decision): ContractResponse => {
      const known = find(call);
      if (!known) return settle(call, content, decide());
      if (known.effect === 'tombstone' || isSame(known, content))
        return answerIn(call.contract, known);
      return { status: 422, body: { code: 'key_reused', key: call.key } };
    },
    /** The code with which a refund is refused, if it does not fit its capture. */
    objectionToRefund: (paymentId: string, asked: Money): string | undefined => {
      const capture = captures.get(paymentId);
      if (!capture) return 'payment_not_found';
      if (asked.currency !== capture.currency) return 'refund_in_other_currency';
      const leftCents = (capture.amountCents ?? 0) - (refundedCents.get(paymentId) ?? 0);
      return asked.amountCents > leftCents ? 'refund_exceeds_capture' : undefined;
    },
  };
}

/** Captures, refunds and shipments do not share keys. */
function slot({ operation, key }: { operation: Operation; key: string }): string {
  return `${operation.replace(/^(look_up|cancel)_/, '').replace('shipment', 'ship')} ${key}`;
}

/**
 * A file of JSON lines, one entry each. An entry is written before its call gets a response, so it outlives
 * the process. The file is not synced: a power failure can lose the last entries.
 */
function openLedger(file: string) {
  mkdirSync(dirname(file), { recursive: true });
  const descriptor = openSync(file, 'a+');
  const text = readFileSync(file, 'utf8');
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  if (whole.length < text.length) ftruncateSync(descriptor, Buffer.byteLength(whole));
  const entries = whole
    .split('\n')
    .slice(0, -1)
    .map((line): LedgerEntry => ledgerEntry.parse(JSON.parse(line)));
  return {
    entries,
    append: (effect: Omit<LedgerEntry, 'number' | 'at'>): LedgerEntry => {
      const entry = { number: entries.length + 1, at: new Date().toISOString(), ...effect };
      writeSync(descriptor, `${JSON.stringify(entry)}\n`);
      entries.push(entry);
      return entry;
    },
    close: () => closeSync(descriptor),
  };
}

function capture(call: SimulatedCall, money: Money): Decision {
  const paymentId = `pay_${randomUUID()}`;
  return { effect: 'capture', paymentId, ...money, answer: created(call, { paymentId, ...money }) };
}

function refund(call: SimulatedCall, paymentId: string, money: Money): Decision {
  const answer = created(call, { refundId: `ref_${randomUUID()}`, paymentId, ...money });
  return { effect: 'refund', paymentId, ...money, answer };
}

function ship(call: SimulatedCall, parcels: readonly Parcel[]): Decision {
  const answer = created(call, statedParcels(call.contract, parcels) ?? {});
  return { effect: 'shipment', parcels: [...parcels], answer };
}

/** How a version states parcels. Version 1 has no words for several. */
function statedParcels(contract: ContractVersion, parcels: readonly Parcel[]) {
  if (contract === 2) return { parcels };
  const [only, ...more] = parcels;
  return only && more.length === 0
    ? { trackingNumber: only.trackingNumber, carrier: only.carrier }
    : undefined;
}

/** The response of a settled key, in the form of a version. Only shipments look different. */
function answerIn(contract: ContractVersion, entry: LedgerEntry): ContractResponse {
  if (contract === entry.contract || entry.effect !== 'shipment') return entry.answer;
  const { parcels = [parcel.parse(entry.answer.body)] } = entry;
  const stated = statedParcels(contract, parcels);
  return stated
    ? created(entry, stated)
    : { status: 409, body: { code: 'several_parcels', key: entry.key } };
}

/** Why no money can be taken with a payment method. */
function objectionToMethod(method: string | undefined): Refusal | undefined {
  if (method === undefined) return undefined;
  if (!method.startsWith('pm_')) return { status: 422, code: 'payment_method_unknown' };
  return method.startsWith('pm_decline') ? REFUSALS.capture : undefined;
}

type Refusal = Readonly<{ status: number; code: string }>;

function refusal({ status, code }: Refusal, key: string): Decision {
  return { effect: 'refusal', answer: statement(status, 'refused', code, key) };
}

type OfOrder = Readonly<{ key: string; orderId: string }>;

function created({ key, orderId }: OfOrder, result: Readonly<Record<string, unknown>>) {
  return { status: 201, body: { key, orderId, ...result } };
}

function statement(status: number, outcome: string, code: string, key: string): ContractResponse {
  return { status, body: { outcome, code, key } };
}
