import { canHappen, faults } from '#dev/provider-simulator/faults.ts';
import type { ResponseKind, Fault, FaultName } from '#dev/provider-simulator/faults.ts';
import type { Operation } from '#dev/provider-simulator/contract.ts';
import type { FaultRuleInput } from '#dev/provider-simulator/simulator-client.ts';
import type { OrderPoint } from './points.ts';

/** What befalls one order on its way. */
export type Story = Readonly<{
  name: string;
  faults: readonly FaultRuleInput[];
  /** Where its customer cancels. */
  cancelAt?: OrderPoint;
  sku?: string;
  priceCents?: number;
  /** A point that it passes by itself, or it is not the story that it says it is. */
  passes?: OrderPoint;
  /** Where its late effects land; those with a time of their own may have landed before. */
  landsAt?: OrderPoint;
  /** The provider does what it was not asked to, so that only an operator can settle it. */
  mayBeStuck?: true;
  /** What its customer gets back once it has shipped, all asked for at once. */
  refunds?: readonly number[];
  /** An operator states the outcome of a stuck refund, instead of trying it again. */
  resolves?: true;
}>;

/** When a late effect lands: while the saga still wonders. */
const LATE_MS = 40;
/** More tries than a saga makes before it gives a step up. */
const ALWAYS = 200;

const once = (operation: Operation, fault: FaultName): FaultRuleInput => ({
  operation,
  fault,
  times: 1,
  retryAfterSeconds: 0,
  ...((fault === 'hold' || fault.startsWith('late')) && { lateMs: LATE_MS }),
});
const always = (operation: Operation, fault: FaultName): FaultRuleInput => ({
  ...once(operation, fault),
  times: ALWAYS,
});

/** By a provider that takes no amount of 0: whoever asks it is refused. */
const moneyRefused = [always('capture', 'refuse'), always('refund', 'refuse')];

export const mainStories: readonly Story[] = [
  { name: 'all goes well', faults: [] },
  { name: 'out of stock', faults: [], sku: 'nothing' },
  { name: 'the card is refused', faults: [once('capture', 'refuse')] },
  { name: 'the carrier refuses', faults: [once('ship', 'refuse')] },
  { name: 'it costs nothing', faults: moneyRefused, priceCents: 0 },
  {
    name: 'it costs nothing, and the carrier refuses',
    faults: [...moneyRefused, once('ship', 'refuse')],
    priceCents: 0,
  },
];

/** What customers cancel in the middle of. */
export const cancelledStories: readonly Story[] = [
  ...mainStories,
  { name: 'the payment is lost', faults: [once('capture', 'reset_before')] },
  { name: 'the response to the payment is lost', faults: [once('capture', 'reset_after')] },
  { name: 'the response to the shipment is lost', faults: [once('ship', 'reset_after')] },
];

/** How an order comes to each operation, and at which point of its saga. */
const ways: Readonly<
  Record<Operation, { before: readonly FaultRuleInput[]; at: OrderPoint; cancelAt?: OrderPoint }>
> = {
  capture: { before: [], at: 'before send capture' },
  look_up_capture: {
    before: [once('capture', 'reset_after')],
    at: 'before look_up capture',
  },
  cancel_capture: {
    before: [once('capture', 'late_reset')],
    cancelAt: 'after send capture',
    at: 'before cancel cancel_capture',
  },
  refund: { before: [once('ship', 'refuse')], at: 'before send refund' },
  look_up_refund: {
    before: [once('ship', 'refuse'), once('refund', 'reset_after')],
    at: 'before look_up refund',
  },
  ship: { before: [], at: 'before send ship' },
  look_up_shipment: { before: [once('ship', 'reset_after')], at: 'before look_up ship' },
  // The carrier is given up: this takes a clock that runs fast.
  cancel_shipment: {
    before: [once('ship', 'reset_before'), always('look_up_shipment', 'reset_before')],
    at: 'before cancel cancel_shipment',
  },
};

/** An order that meets the fault where it asks for the operation. */
export function faultStory(operation: Operation, fault: FaultName): Story {
  const { before, at, cancelAt } = ways[operation];
  const altered = fault === 'other_amount' || fault === 'other_currency';
  return {
    name: `${fault} at ${operation}`,
    faults: [...before, once(operation, fault)],
    passes: at,
    ...(cancelAt && { cancelAt }),
    ...(operation === 'refund' && altered && { mayBeStuck: true }),
  };
}

/** Orders that leave in several parcels. */
export const parcelStories: readonly Story[] = [
  { name: 'it leaves in two parcels', faults: [once('ship', 'split')] },
  {
    name: 'it leaves in two parcels, which are stated wrongly at first',
    faults: [once('ship', 'misstated_parcels')],
  },
];

/** Refunds of orders that have shipped. */
export const refundStories: readonly Story[] = [
  { name: 'a part is refunded', faults: [], refunds: [1000] },
  { name: 'two parts are refunded at once', faults: [], refunds: [1000, 1500] },
  { name: 'the refund is refused', faults: [once('refund', 'refuse')], refunds: [2500] },
  {
    name: 'the response to the refund is lost',
    faults: [once('refund', 'reset_after')],
    refunds: [2500],
  },
];

/** A refund that meets the fault where it asks for the operation. */
export function refundFaultStory(operation: 'refund' | 'look_up_refund', fault: FaultName): Story {
  const isLookUp = operation === 'look_up_refund';
  const altered = fault === 'other_amount' || fault === 'other_currency';
  return {
    name: `${fault} at ${operation} of a refund after shipping`,
    faults: [...(isLookUp ? [once('refund', 'reset_after')] : []), once(operation, fault)],
    refunds: [1000],
    passes: isLookUp ? 'refund: before look_up refund' : 'refund: before send refund',
    ...(!isLookUp && altered && { mayBeStuck: true }),
  };
}

/** Refunds that are stuck until an operator comes; they take a clock that runs fast. */
export const stuckRefundStories: readonly Story[] = [
  {
    name: 'the refund was made, is stuck, and is tried again',
    faults: [once('refund', 'reset_after'), once('look_up_refund', 'reset_before')],
    refunds: [1000],
  },
  {
    name: 'the refund was not made, is stuck, and is tried again',
    faults: [once('refund', 'reset_before'), once('look_up_refund', 'reset_before')],
    refunds: [1000],
  },
  {
    name: 'the refund was made, is stuck, and an operator says so',
    faults: [once('refund', 'reset_after'), always('look_up_refund', 'reset_before')],
    refunds: [1000],
    resolves: true,
  },
  {
    name: 'the refund was not made, is stuck, and an operator says so',
    faults: [once('refund', 'reset_before'), always('look_up_refund', 'reset_before')],
    refunds: [1000],
    resolves: true,
  },
  {
    name: 'the refund comes late, and an operator waits for it',
    faults: [once('refund', 'late_reset'), always('look_up_refund', 'reset_before')],
    refunds: [1000],
    resolves: true,
  },
];

/** Stories of providers that are given up; they take a clock that runs fast. */
export const givenUpStories: readonly Story[] = [
  {
    name: 'the parcel is given up, and has left',
    faults: [once('ship', 'reset_after'), always('look_up_shipment', 'reset_before')],
    passes: 'before commit cancel_shipment',
  },
  {
    name: 'the payment is given up, and comes later',
    faults: [once('capture', 'late_reset'), always('look_up_capture', 'reset_before')],
    passes: 'before commit cancel_capture',
  },
  {
    name: 'the payment is given up, and never came',
    faults: [once('capture', 'reset_before'), always('look_up_capture', 'reset_before')],
    passes: 'before commit cancel_capture',
  },
];

/** What responses look like to a caller. */
const looks: Readonly<Record<ResponseKind, string>> = {
  right: 'right',
  none: 'silence',
  reset: 'cut off',
  error: 'failed',
  overloaded: 'failed',
  too_many: 'not applied',
  unavailable: 'not applied',
  garbage: 'unreadable',
  wrong_shape: 'unreadable',
  html: 'unreadable',
  empty: 'unreadable',
  huge: 'unreadable',
  cut_short: 'unreadable',
  redirect: 'unreadable',
  duplicate: 'twice',
  other_key: 'unreadable',
  misstated_amount: 'misstated',
  misstated_currency: 'misstated',
  misstated_parcels: 'misstated',
  repeated_parcel: 'unreadable',
};

export const faultNames = Object.keys(faults).filter((name): name is FaultName => name in faults);

/** Every fault that can happen to the operation. */
export function faultsOf(operation: Operation): FaultName[] {
  return faultNames.filter((name) => name !== 'none' && canHappen(name, operation));
}

/**
 * One fault for each thing that can happen and how it looks: the others differ in their bytes only. A
 * look-up has no effect, so its response is all there is.
 */
export function faultClassesOf(operation: Operation): FaultName[] {
  const seen = new Map<string, FaultName>();
  for (const name of faultsOf(operation)) {
    const { effect, response }: Fault = faults[name];
    const kind = operation.startsWith('look_up') ? looks[response] : `${effect} ${looks[response]}`;
    if (!seen.has(kind)) seen.set(kind, name);
  }
  return [...seen.values()];
}
