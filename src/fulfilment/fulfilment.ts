import type { Pool } from 'pg';
import type { Logger } from 'pino';
import type { DatabaseClock } from '#src/database/clock.ts';
import type { Unit } from '#src/event-store/event-store.ts';
import type { GroupCommit } from '#src/event-store/group-commit.ts';
import type { StartOrWakeSaga } from '#src/orders/handle-order-command.ts';
import { orderProblem, orderProblemKinds } from '#src/orders/order-problems.ts';
import type { SagaCommitContext } from '#src/sagas/saga-commit.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import type { ObserveSaga } from '#src/sagas/saga-points.ts';
import type { SagaRunnerEvents, SagaRunnerLimits } from '#src/sagas/saga-run.ts';
import { createSagaRunner } from '#src/sagas/saga-runner.ts';
import { fulfilmentCalls, fulfilmentDefinition } from './fulfilment-definition.ts';
import type { FulfilmentDeadlines, Providers } from './fulfilment-definition.ts';

const NOTHING = { appends: [], sagas: [] } as const;

export type FulfilmentDependencies = Readonly<{
  commit: Pick<GroupCommit, 'submit'>;
  pool: Pool;
  /** Without providers orders are handled by hand, and no live fulfilment may exist. */
  providers: Providers | undefined;
  deadlines: FulfilmentDeadlines;
  limits: SagaRunnerLimits;
  topic: string;
  now: () => Date;
  clock: DatabaseClock;
  /** Whether this process may not write at the moment. */
  isPaused?: () => boolean;
  log: Pick<Logger, 'info' | 'warn' | 'error'>;
  events?: SagaRunnerEvents;
  /** For tests that stop time, or the process, at a point of a run. */
  observe?: ObserveSaga;
}>;

/** The sagas of orders in this process. */
export type Fulfilment = Readonly<{
  /** Every version that is known, to show sagas. The last one is for new sagas. */
  definitions: readonly SagaDefinition[];
  /** The definitions that this process can carry out: none without providers. */
  runnable: readonly SagaDefinition[];
  /** For the commits of operators. */
  commitContext: SagaCommitContext;
  /** For the command handler. @throws Problem `fulfilment_off` for an order that starts one */
  startOrWakeSaga: StartOrWakeSaga;
  /** For the group commit, which calls it for every unit that was committed. */
  committed(units: readonly Unit[]): void;
  /** @throws SagaDefinitionMissing */
  start(): Promise<void>;
  /** Must end before the group commit does, so that outcomes of calls can be recorded. */
  stop(): Promise<void>;
}>;

export function createFulfilment(dependencies: FulfilmentDependencies): Fulfilment {
  const { providers, deadlines, topic, now, clock } = dependencies;
  const definitions = [fulfilmentDefinition(deadlines)];
  const runnable = providers ? definitions : [];
  const calls = providers ? fulfilmentCalls(providers) : {};
  const runner = createSagaRunner({ ...dependencies, definitions: runnable, calls });
  return {
    definitions,
    runnable,
    commitContext: { now, clock, topic },
    startOrWakeSaga: (orderId, events, { recordedAt, metadata }) => {
      for (const { type, data } of events) {
        if (type === 'CancellationRequested') {
          return { appends: [], sagas: [{ op: 'wake', subject_id: orderId }] };
        }
        if (type === 'FulfilmentStarted') {
          if (!providers) throw orderProblem(orderProblemKinds.fulfilmentOff);
          const { sagaId } = data;
          const start = { sagaId, subjectId: orderId, metadata, at: recordedAt };
          const { append, work } = runner.begin(start);
          return { appends: [append], sagas: [work] };
        }
      }
      return NOTHING;
    },
    committed: (units) => {
      for (const { sagas } of units) if (sagas) runner.committed(sagas);
    },
    start: runner.start,
    stop: runner.stop,
  };
}
