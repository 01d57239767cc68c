import type { StepOutcome } from './saga-decisions.ts';

/** What a call is made of. `request` is as the definition froze it. */
export type KeyedRequest = Readonly<{ key: string; request: unknown }>;

/**
 * What became of a call that has an effect outside: money moved, a parcel handed over. Only the words of
 * whoever was called settle it; whatever else happens is `unknown`.
 */
export type SendOutcome<Result = unknown> =
  | Readonly<{ outcome: 'ok'; result: Result }>
  /** No, for good: this key never has an effect. The only reason to compensate. */
  | Readonly<{ outcome: 'refused'; reason: string }>
  /** This call had no effect, and says nothing of earlier calls with the key. Try again later. */
  | Readonly<{ outcome: 'not_applied'; reason: string; retryAfterMs?: number }>
  | UnknownOutcome<Result>;

/** What a look-up by key found. */
export type LookUpOutcome<Result = unknown> =
  | Readonly<{ outcome: 'found'; result: Result }>
  /** Nothing has happened under this key so far. An earlier call with it may still land. */
  | Readonly<{ outcome: 'absent' }>
  | UnknownOutcome<Result>;

/** What a cancel by key came to. The first two are final: nothing more happens under the key. */
export type CancelOutcome<Result = unknown> =
  | Readonly<{ outcome: 'cancelled' }>
  /** Too late; `result` is as it was stated, so that exactly that can be given back. */
  | Readonly<{ outcome: 'already_done'; result: Result }>
  | UnknownOutcome<Result>;

/**
 * It may have happened or not: look it up, then resend the same key, or cancel by key.
 * `stated` is what is said to have been done where that is not what was asked for.
 */
export type UnknownOutcome<Result = unknown> = Readonly<{
  outcome: 'unknown';
  reason: string;
  retryAfterMs?: number;
  stated?: Result;
}>;

/**
 * There was no place for a call, so that none was made: it says nothing of the step, and counts as no
 * try of it. The only error that a call may throw.
 */
export class CallNotMade extends Error {
  constructor() {
    super('there was no place for the call');
    this.name = 'CallNotMade';
  }
}

/** A call with an effect, and the look-up that tells whether it had it. */
export type EffectCall = Readonly<{
  send(asked: KeyedRequest, signal: AbortSignal): Promise<SendOutcome>;
  lookUp(asked: KeyedRequest, signal: AbortSignal): Promise<LookUpOutcome>;
}>;

/** Settles the key of another call for good, as long as the provider knows the key. */
export type CancelCall = Readonly<{
  cancel(asked: KeyedRequest, signal: AbortSignal): Promise<CancelOutcome>;
}>;

export type StepCall = EffectCall | CancelCall;

/** What a step may call. */
export type CallName = 'send' | 'look_up' | 'cancel';

export type CallOptions = Readonly<{
  /** No call can have been made under this key yet. */
  fresh: boolean;
  /** The key is young enough for the provider to know it still. */
  mayResend: boolean;
  signal: AbortSignal;
  /** Wraps every call that is made. */
  around<Result>(name: CallName, call: () => Promise<Result>): Promise<Result>;
}>;

/**
 * Makes one try of a step. What may have been sent before is looked up first, and sent again only
 * where the provider says that there is nothing, with the same key.
 * @throws CallNotMade
 */
export async function callStep(
  call: StepCall,
  asked: KeyedRequest,
  { fresh, mayResend, signal, around }: CallOptions,
): Promise<StepOutcome> {
  if ('cancel' in call) {
    if (!mayResend) {
      const reason = 'the key is too old for the provider to be asked about it';
      return { outcome: 'unknown', reason, hopeless: true };
    }
    const cancelled = await around('cancel', () => call.cancel(asked, signal));
    return cancelled.outcome === 'unknown' ? unsettled(cancelled) : cancelled;
  }
  if (!fresh) {
    const found = await around('look_up', () => call.lookUp(asked, signal));
    if (found.outcome === 'found') return { outcome: 'ok', result: found.result };
    if (found.outcome === 'unknown') {
      return {
        ...unsettled(found),
        ...(found.stated !== undefined && { hopeless: true as const }),
      };
    }
    if (!mayResend) {
      const reason = 'not there, and the key is too old to be sent again';
      return { outcome: 'unknown', reason, hopeless: true };
    }
  }
  const sent = await around('send', () => call.send(asked, signal));
  return sent.outcome === 'unknown' ? unsettled(sent) : sent;
}

function unsettled({ reason, retryAfterMs }: UnknownOutcome) {
  return {
    outcome: 'unknown' as const,
    reason,
    ...(retryAfterMs !== undefined && { retryAfterMs }),
  };
}
