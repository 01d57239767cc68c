import { z } from 'zod';
import type {
  CancelOutcome,
  LookUpOutcome,
  SendOutcome,
  UnknownOutcome,
} from '#src/sagas/saga-definition.ts';
import type { ProviderAnswer } from './provider-http.ts';

/** Statuses under which the provider's word `refused`, or `not_applied`, is believed. */
const REFUSED_STATUSES = new Set([402, 409, 422]);
const NOT_APPLIED_STATUSES = new Set([400, 401, 403, 413, 429, 503]);

const keyed = z.object({ key: z.string() });
const coded = z.object({ code: z.string().regex(/^[a-z0-9_]{1,64}$/) });
const said = coded.extend({ outcome: z.enum(['refused', 'not_applied', 'absent']) });
const cancelled = z.object({ outcome: z.literal('cancelled') });

/** Text that any of our stores can hold: no NUL, no lone surrogate. */
export const answerText = z
  .string()
  .min(1)
  .max(100)
  .refine((text) => text.isWellFormed() && !text.includes('\0'));
export const answerCents = z.int().min(0);
export const answerCurrency = z.string().regex(/^[A-Z]{3}$/);

/** What a right answer looks like for one request. */
export type Expected<Result> = Readonly<{
  key: string;
  result: z.ZodType<Result>;
  /** Says how a well-formed result is not the one asked for. */
  difference?: (result: Result) => string | undefined;
}>;

type Answer = Extract<ProviderAnswer, { kind: 'answer' }>;

/** Reads the answer to a call that has an effect. */
export function callOutcome<Result>(
  answer: ProviderAnswer,
  expected: Expected<Result>,
): SendOutcome<Result> {
  if (answer.kind === 'not_sent') return { outcome: 'not_applied', reason: answer.reason };
  if (answer.kind === 'lost') return unknown(answer, answer.reason);
  if (!isForKey(answer, expected)) return unknown(answer, otherKey(answer));
  if (isDone(answer)) return readResult(answer, expected, 'ok');
  const statement = said.safeParse(answer.body).data;
  if (statement?.outcome === 'refused' && REFUSED_STATUSES.has(answer.status))
    return { outcome: 'refused', reason: statement.code };
  if (statement?.outcome === 'not_applied' && NOT_APPLIED_STATUSES.has(answer.status))
    return { outcome: 'not_applied', reason: statement.code, ...again(answer) };
  return unknown(answer, settlesNothing(answer));
}

/** Reads the answer to a look-up. Nothing but the provider's own word makes a key absent. */
export function lookUpOutcome<Result>(
  answer: ProviderAnswer,
  expected: Expected<Result>,
): LookUpOutcome<Result> {
  if (answer.kind !== 'answer') return unknown(answer, answer.reason);
  if (!isForKey(answer, expected)) return unknown(answer, otherKey(answer));
  if (answer.status === 200) return readResult(answer, expected, 'found');
  if (answer.status === 404 && said.safeParse(answer.body).data?.outcome === 'absent')
    return { outcome: 'absent' };
  return unknown(answer, settlesNothing(answer));
}

/** Reads the answer to a cancel by key. What was done is taken as stated, to be undone as stated. */
export function cancelOutcome<Result>(
  answer: ProviderAnswer,
  expected: Expected<Result>,
): CancelOutcome<Result> {
  if (answer.kind !== 'answer') return unknown(answer, answer.reason);
  if (!isForKey(answer, expected)) return unknown(answer, otherKey(answer));
  if (answer.status !== 200) return unknown(answer, settlesNothing(answer));
  if (cancelled.safeParse(answer.body).success) return { outcome: 'cancelled' };
  const done = z.object({ outcome: z.literal('already_done'), result: expected.result });
  const { data } = done.safeParse(answer.body);
  return data
    ? { outcome: 'already_done', result: data.result }
    : unknown(answer, 'answer 200 is not as the contract has it');
}

function readResult<Result, Outcome extends 'ok' | 'found'>(
  answer: Answer,
  { result, difference }: Expected<Result>,
  outcome: Outcome,
): { outcome: Outcome; result: Result } | UnknownOutcome<Result> {
  const { success, data } = result.safeParse(answer.body);
  if (!success) return unknown(answer, `answer ${answer.status} is not as the contract has it`);
  const differs = difference?.(data);
  if (differs !== undefined) return { ...unknown(answer, differs), stated: data };
  return { outcome, result: data };
}

const isDone = ({ status }: Answer) => status === 200 || status === 201;

/** A connection can carry a stray answer; one that does not name our key is not ours. */
const isForKey = (answer: Answer, { key }: { key: string }) =>
  keyed.safeParse(answer.body).data?.key === key;

const otherKey = ({ status }: Answer) => `answer ${status} does not name the key`;

function settlesNothing({ status, body }: Answer): string {
  const { data } = coded.safeParse(body);
  return `answer ${status}${data ? ` ${data.code}` : ''} settles nothing`;
}

const again = (answer: ProviderAnswer) =>
  'retryAfterMs' in answer ? { retryAfterMs: answer.retryAfterMs } : {};

function unknown(answer: ProviderAnswer, reason: string): UnknownOutcome<never> {
  return { outcome: 'unknown', reason, ...again(answer) };
}
