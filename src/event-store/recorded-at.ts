/** An event is never recorded before one that it follows, whatever the clock does. */
export function recordedAt(now: Date, ...follows: readonly (string | null | undefined)[]): string {
  return follows.reduce<string>(
    (latest, at) => (typeof at === 'string' && at > latest ? at : latest),
    now.toISOString(),
  );
}
