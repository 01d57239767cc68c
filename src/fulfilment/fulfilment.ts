import type { Unit } from '#src/event-store/event-store.ts';
import type { StartOrWakeSaga } from '#src/orders/handle-order-command.ts';
import { Problem } from '#src/http/problem.ts';
import { orderProblemKind } from '#src/orders/order-problems.ts';
import type { SagaCommitContext } from '#src/sagas/saga-commit.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { createSagaRunner } from '#src/sagas/saga-runner.ts';
import type { SagaRunner, SagaRunnerDependencies } from '#src/sagas/saga-runner.ts';
import { fulfilmentDefinition } from './fulfilment-definition.ts';
import type { FulfilmentDeadlines } from './fulfilment-definition.ts';
import type { Providers } from './providers/providers.ts';

export type FulfilmentDependencies = Omit<SagaRunnerDependencies, 'definitions'> &
  Readonly<{
    /** Without providers orders are handled by hand, and no live fulfilment may exist. */
    providers: Providers | undefined;
    deadlines: FulfilmentDeadlines;
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
}> &
  /** `stop` must end before the group commit does, so that outcomes of calls can be recorded. */
  Pick<SagaRunner, 'start' | 'stop'>;

export function createFulfilment(dependencies: FulfilmentDependencies): Fulfilment {
  const { providers, deadlines } = dependencies;
  const definitions = [fulfilmentDefinition(deadlines, providers)];
  const runnable = providers ? definitions : [];
  const runner = createSagaRunner({ ...dependencies, definitions: runnable });
  return {
    definitions,
    runnable,
    commitContext: dependencies,
    startOrWakeSaga: (orderId, events, { recordedAt, metadata }) => {
      for (const { type, data } of events) {
        if (type === 'CancellationRequested') {
          return { appends: [], sagas: [{ op: 'wake', subject_id: orderId }] };
        }
        if (type === 'FulfilmentStarted') {
          if (!providers) throw new Problem(orderProblemKind('fulfilment_off'));
          const { sagaId } = data;
          const { append, work } = runner.begin({ sagaId, orderId, metadata, at: recordedAt });
          return { appends: [append], sagas: [work] };
        }
      }
      return { appends: [], sagas: [] };
    },
    committed: (units) => {
      for (const { sagas } of units) if (sagas) runner.committed(sagas);
    },
    start: runner.start,
    stop: runner.stop,
  };
}
