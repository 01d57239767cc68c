/**
 * What became of a call that has an effect outside: money moved, a parcel handed over.
 * Only the provider's own words settle a call; whatever else happens is `unknown`.
 */
export type CallOutcome<Result> =
  | Readonly<{ outcome: 'ok'; result: Result }>
  /** The provider said no, for good: this key never has an effect. The only reason to compensate. */
  | Readonly<{ outcome: 'refused'; reason: string }>
  /** This call had no effect, and says nothing of earlier calls with the key. Try again later. */
  | Readonly<{ outcome: 'not_applied'; reason: string; retryAfterMs?: number }>
  | UnknownOutcome<Result>;

/** What a look-up by key found. */
export type LookUpOutcome<Result> =
  | Readonly<{ outcome: 'found'; result: Result }>
  /** Nothing has happened under this key so far. An earlier call with it may still land. */
  | Readonly<{ outcome: 'absent' }>
  | UnknownOutcome<Result>;

/** What a cancel by key came to. The first two are final: nothing more happens under the key. */
export type CancelOutcome<Result> =
  | Readonly<{ outcome: 'cancelled' }>
  /** Too late; `result` is as the provider states it, so that exactly that can be given back. */
  | Readonly<{ outcome: 'already_done'; result: Result }>
  | UnknownOutcome<Result>;

/**
 * It may have happened or not: look it up, then resend the same key, or cancel by key.
 * `stated` is what the provider says it did where that is not what was asked for.
 */
export type UnknownOutcome<Result> = Readonly<{
  outcome: 'unknown';
  reason: string;
  retryAfterMs?: number;
  stated?: Result;
}>;
