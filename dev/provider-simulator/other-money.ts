/** Half of an amount, as of a partial capture; never the amount itself. */
export function otherAmount(amountCents: unknown): number {
  return typeof amountCents === 'number' && amountCents > 0 ? Math.floor(amountCents / 2) : 1;
}

/** A currency that exists for tests, or for none. */
export function otherCurrency(currency: unknown): string {
  return currency === 'XTS' ? 'XXX' : 'XTS';
}
