import type { DatabaseClock } from '#src/database/database-clock.ts';
import type { EventMetadata, Loaded, Verdict } from '#src/event-store/event-store.ts';
import type { Decision, GroupCommit } from '#src/event-store/group-commit.ts';
import { recordedAt } from '#src/event-store/recorded-at.ts';
import { advance } from './saga-decisions.ts';
import type { Advance, Situation } from './saga-decisions.ts';
import { SagaStreamDamaged, foldSaga, toNewSagaEvent, toRecordedSagaEvent } from './saga.ts';
import type { SagaEvent, Saga } from './saga.ts';
import type { SagaKind } from './saga-kind.ts';
import type { SagaWorkRow } from './saga-work.ts';

/** The two clocks of a commit. */
export type SagaClocks = Readonly<{
  /** This process's own, for what is recorded. */
  now: () => Date;
  /** The database's, for what is due. */
  clock: Pick<DatabaseClock, 'now'>;
}>;

/** One commit of a saga. */
export type SagaCommit<Subject> = Readonly<{
  sagaId: string;
  subjectId: string;
  /**
   * What there is to record on the saga at this version of its stream; null where that has become
   * pointless, so that nothing is written.
   */
  news(saga: Saga, situation: Situation<Subject>, version: number): readonly SagaEvent[] | null;
  /** The row of the queue that goes with what was decided. */
  work(advanced: Advance): SagaWorkRow;
  /** Who causes it; the saga itself where it is left out. */
  metadata?: EventMetadata;
  /** By the runner, which bounds its commits by the sagas that it works on. */
  hasReservedRoom?: boolean;
}>;

/** What was decided, and whether there was anything to write. */
export type SagaCommitted = Advance & Readonly<{ written: boolean }>;

/**
 * Records news of a saga and all that follows, on the newest state of it and of its subject, again and
 * again until no race is lost. The subject's version is checked even where nothing is added to it, so
 * that nothing is decided on a subject that has changed meanwhile.
 * @returns null if another owner has the saga now, or if the news had become pointless
 * @throws what `submit` of the group commit throws, but for a lost race
 */
export function commitSaga<Subject, Rows>(
  commit: Pick<GroupCommit<Rows>, 'submit'>,
  kind: SagaKind<Subject, Rows>,
  clocks: SagaClocks,
  task: SagaCommit<Subject>,
): Promise<SagaCommitted | null> {
  return commit.submit({
    loads: [task.sagaId, task.subjectId],
    attemptsMax: Infinity,
    hasReservedRoom: task.hasReservedRoom ?? false,
    decide: (loaded, refusedBy) => decideCommit(kind, clocks, task, loaded, refusedBy),
  });
}

/** One decision of `commitSaga`, for those who write something of their own with it. */
export function decideCommit<Subject, Rows>(
  kind: SagaKind<Subject, Rows>,
  { now, clock }: SagaClocks,
  task: SagaCommit<Subject>,
  loaded: Loaded,
  refusedBy: Verdict | undefined,
): Decision<Rows, SagaCommitted | null> {
  if (refusedBy === 'fenced') return { result: null };
  const refused: Situation<Subject>['refused'] = kind.refusals[refusedBy ?? ''];
  const { sagaId, subjectId } = task;
  const stream = loaded.stream(sagaId);
  const subjectStream = loaded.stream(subjectId);
  const saga = foldSaga(stream.map(toRecordedSagaEvent));
  const [first] = stream;
  if (saga === null || !first) throw new SagaStreamDamaged('nothing');
  const { definition, category } = kind;
  const at = recordedAt(now(), stream.at(-1)?.recordedAt, subjectStream.at(-1)?.recordedAt);
  const subject = kind.foldSubject(subjectStream);
  const situation = {
    sagaId,
    definition,
    subject,
    at,
    now: clock.now().toISOString(),
    ...(refused && { refused }),
  };
  const news = task.news(saga, situation, stream.length);
  if (news === null) return { result: null };

  const advanced = advance(saga, news, situation);
  const { events } = advanced;
  if (events.length === 0) return { result: { ...advanced, written: false } };
  const metadata = task.metadata ?? followUp(first.metadata, sagaId, definition.name);
  const append = {
    streamId: sagaId,
    category,
    expectedVersion: stream.length,
    events: events.map((event) => toNewSagaEvent(event, metadata)),
  };
  const work = task.work(advanced);
  const change = { sagaId, subjectId, saga: advanced.saga, subject, events, append, work };
  const unit = kind.unitOf({ ...change, metadata, at });
  return { unit, result: { ...advanced, written: true } };
}

/** What a saga does belongs to the request that started it. */
function followUp(
  { correlationId, traceparent }: EventMetadata,
  sagaId: string,
  actor: string,
): EventMetadata {
  return {
    correlationId,
    causationId: sagaId,
    actor,
    ...(traceparent !== undefined && { traceparent }),
  };
}
