/** What is known of an order's money, in the minor unit of its currency. */
export type OrderMoney = Readonly<{
  status: 'unplaced' | 'pending' | 'paid' | 'shipped' | 'cancelled';
  totalCents: number;
  capturedCents: number;
  refundedCents: number;
}>;

/**
 * Whether a pending order is paid: its payments cover the total. Once a saga runs, its first payment
 * pays the order, whatever the amount: the saga itself judges what it captured.
 */
export function isPaid(
  { totalCents, capturedCents }: Pick<OrderMoney, 'totalCents' | 'capturedCents'>,
  isFulfilled: boolean,
): boolean {
  return isFulfilled || capturedCents >= totalCents;
}

/**
 * What the order owes its customer: all that was captured if it is cancelled, else what exceeds its
 * total; less what was given back. Never below 0.
 */
export function owedCents({
  status,
  totalCents,
  capturedCents,
  refundedCents,
}: OrderMoney): number {
  const earnedCents = status === 'cancelled' ? 0 : totalCents;
  return Math.max(0, capturedCents - refundedCents - earnedCents);
}
