import type {
  EventMetadata,
  StoredEvent,
  StreamAppend,
  Unit,
} from '#src/event-store/event-store.ts';
import type { StepCall } from './saga-call.ts';
import type { SagaDefinition } from './saga-definition.ts';
import type { RecordedSagaEvent, Saga } from './saga.ts';
import type { SagaWorkRow } from './saga-work.ts';

/** What a saga writes in one commit, before its owner adds what follows from it. */
export type SagaChange<Subject> = Readonly<{
  sagaId: string;
  subjectId: string;
  saga: Saga;
  subject: Subject;
  /** The new events of the saga, which `append` holds. */
  events: readonly RecordedSagaEvent[];
  append: StreamAppend;
  work: SagaWorkRow;
  metadata: EventMetadata;
  at: string;
}>;

/** One version of a definition, and all that it takes to carry it out. */
export type SagaKind<Subject, Rows> = Readonly<{
  definition: SagaDefinition<Subject>;
  /** Of its streams. */
  category: string;
  /** Folds the stream of what the saga is about. */
  foldSubject(stream: readonly StoredEvent[]): Subject;
  /** Verdicts by which the database refuses a local action. */
  refusals: Readonly<Record<string, Readonly<{ step: string; reason: string }>>>;
  /** The call of each action that is one. */
  calls: Readonly<Record<string, StepCall>>;
  /** All that is written with the saga's events: in the subject's stream, and in rows. */
  unitOf(change: SagaChange<Subject>): Unit<Rows>;
}>;
