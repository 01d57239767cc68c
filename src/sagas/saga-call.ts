/** What a call is made with. `request` is as the definition froze it in the intent. */
export type KeyedRequest = Readonly<{ key: string; request: unknown }>;

/** A call with an effect outside (money moved, a parcel sent), and the look-up that tells whether it had it. */
export type EffectCall = Readonly<{
  send(request: KeyedRequest, signal: AbortSignal): Promise<SendOutcome>;
  lookUp(request: KeyedRequest, signal: AbortSignal): Promise<LookUpOutcome>;
}>;

/** Closes the key of another call for good, while the provider still knows the key. */
export type CancelCall = Readonly<{
  cancel(request: KeyedRequest, signal: AbortSignal): Promise<CancelOutcome>;
}>;

export type StepCall = EffectCall | CancelCall;

/**
 * The outcome of a call that has an effect. Only an explicit statement of the provider counts as `ok`,
 * `refused` or `not_applied`; everything else is `unknown`.
 */
export type SendOutcome<Result = unknown> =
  | Readonly<{ outcome: 'ok'; result: Result }>
  /** Refused for good: this key never has an effect. This is the only reason to compensate. */
  | Readonly<{ outcome: 'refused'; reason: string }>
  /** This call had no effect. Earlier calls with the same key may have had one. Try again later. */
  | Readonly<{ outcome: 'not_applied'; reason: string; retryAfterMs?: number }>
  | UnknownOutcome<Result>;

/** The outcome of a look-up by key. */
export type LookUpOutcome<Result = unknown> =
  | Readonly<{ outcome: 'found'; result: Result }>
  /** Nothing has happened under this key so far. An earlier call with it may still take effect. */
  | Readonly<{ outcome: 'absent' }>
  | UnknownOutcome<Result>;

/** The outcome of a cancel by key. The first two are final: nothing more happens under the key. */
export type CancelOutcome<Result = unknown> =
  | Readonly<{ outcome: 'cancelled' }>
  /** Too late. `result` is what the provider stated, so that exactly that can be undone. */
  | Readonly<{ outcome: 'already_done'; result: Result }>
  | UnknownOutcome<Result>;

/**
 * The call may have had its effect or not: look it up, then send it again with the same key, or cancel the
 * key. `stated` is what the provider says it did, if that is not what was requested.
 */
export type UnknownOutcome<Result = unknown> = Readonly<{
  outcome: 'unknown';
  reason: string;
  retryAfterMs?: number;
  stated?: Result;
}>;

/** The outcome of one attempt at a step. `hopeless`: another attempt would get the same response. */
export type StepOutcome =
  | SendOutcome
  | CancelOutcome
  | (UnknownOutcome & Readonly<{ hopeless?: true }>);

/**
 * No call was made: too many are under way, or what it needs cannot be read now, which is the `cause`. This says
 * nothing about the step and does not count as an attempt. A call that throws anything else has not been made either,
 * and makes the run of its saga fail.
 */
export class CallNotMade extends Error {
  constructor(options?: Readonly<{ cause: unknown }>) {
    super(
      options ? 'what the call needs cannot be read' : 'there was no place for the call',
      options,
    );
    this.name = 'CallNotMade';
  }
}

export type AttemptOptions = Readonly<{
  /** No call can have been made under this key yet. */
  fresh: boolean;
  /** The key is young enough that the provider still knows it. */
  mayResend: boolean;
  timeoutMs: number;
  /** Ends the attempt at once. */
  cutting: AbortSignal;
}>;

/**
 * Makes one attempt at a step. A call that may have been sent before is looked up first. It is sent again,
 * with the same key, only if the provider says that nothing has happened under the key.
 * @throws CallNotMade
 */
export async function attemptCall(
  call: StepCall,
  request: KeyedRequest,
  { fresh, mayResend, timeoutMs, cutting }: AttemptOptions,
): Promise<StepOutcome> {
  const { signal, end } = startDeadline(timeoutMs, cutting);
  try {
    if ('cancel' in call) {
      return mayResend
        ? hopelessIfStated(await call.cancel(request, signal))
        : hopeless('the key is too old for the provider to be asked about it');
    }
    if (fresh) return await call.send(request, signal);
    const found = await call.lookUp(request, signal);
    if (found.outcome === 'found') return { outcome: 'ok', result: found.result };
    if (found.outcome === 'unknown') return hopelessIfStated(found);
    return mayResend
      ? await call.send(request, signal)
      : hopeless('not there, and the key is too old to be sent again');
  } finally {
    end();
  }
}

/** The provider states that it did something else than was asked for. It would say so again. */
function hopelessIfStated(outcome: CancelOutcome): StepOutcome {
  return outcome.outcome === 'unknown' && outcome.stated !== undefined
    ? { ...outcome, hopeless: true }
    : outcome;
}

function hopeless(reason: string): StepOutcome {
  return { outcome: 'unknown', reason, hopeless: true };
}

/** A signal that fires after the time, or with `outer`. `AbortSignal.timeout` would keep its timer. */
function startDeadline(timeoutMs: number, outer: AbortSignal) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  const timer = setTimeout(abort, timeoutMs);
  outer.addEventListener('abort', abort, { once: true });
  if (outer.aborted) abort();
  const end = () => {
    clearTimeout(timer);
    outer.removeEventListener('abort', abort);
  };
  return { signal: controller.signal, end };
}
