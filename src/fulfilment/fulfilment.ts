import type { Unit } from '#src/event-store/event-store.ts';
import type { OrderEvent } from '#src/orders/domain/order-events.ts';
import type { StartOrWakeSaga } from '#src/orders/handle-order-command.ts';
import { Problem } from '#src/http/problem.ts';
import { orderProblemKind } from '#src/orders/order-problems.ts';
import type { SagaCommitContext } from '#src/sagas/saga-commit.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';
import { createSagaRunner } from '#src/sagas/saga-runner.ts';
import type { SagaRunner, SagaRunnerDependencies } from '#src/sagas/saga-runner.ts';
import type { ReadPersonalData } from './fulfilment-calls.ts';
import {
  FULFILMENT,
  fulfilmentDefinition,
  fulfilmentDefinition1,
} from './fulfilment-definition.ts';
import type { FulfilmentDeadlines } from './fulfilment-definition.ts';
import { REFUND, refundDefinition } from './refund-definition.ts';
import type { Providers } from './providers/providers.ts';

export type FulfilmentDependencies = Omit<SagaRunnerDependencies, 'definitions'> &
  Readonly<{
    /** Without providers orders are handled by hand, and no live saga may exist. */
    providers: Providers | undefined;
    readPersonalData: ReadPersonalData;
    deadlines: FulfilmentDeadlines;
  }>;

/** The sagas of orders in this process. */
export type Fulfilment = Readonly<{
  /** Every version that is known, to show sagas. The last one of a name is for new sagas. */
  definitions: readonly SagaDefinition[];
  /** The definitions that this process can carry out: none without providers. */
  runnable: readonly SagaDefinition[];
  /** For the commits of operators. */
  commitContext: SagaCommitContext;
  /** For the command handler. @throws Problem `fulfilment_off` for an event that starts one */
  startOrWakeSaga: StartOrWakeSaga;
  /** For the group commit, which calls it for every unit that was committed. */
  committed(units: readonly Unit[]): void;
}> &
  /** `stop` must end before the group commit does, so that outcomes of calls can be recorded. */
  Pick<SagaRunner, 'start' | 'stop'>;

export function createFulfilment(dependencies: FulfilmentDependencies): Fulfilment {
  const { providers, readPersonalData, deadlines } = dependencies;
  const outside = providers && { providers, readPersonalData };
  const definitions = [
    fulfilmentDefinition1(deadlines, outside),
    fulfilmentDefinition(deadlines, outside),
    refundDefinition(deadlines, providers?.payments),
  ];
  const runnable = providers ? definitions : [];
  const runner = createSagaRunner({ ...dependencies, definitions: runnable });
  return {
    definitions,
    runnable,
    commitContext: dependencies,
    startOrWakeSaga: (orderId, events, { recordedAt, metadata }) => {
      for (const event of events) {
        if (event.type === 'CancellationRequested') {
          return { appends: [], sagas: [{ op: 'wake', subject_id: orderId }] };
        }
        const started = sagaStartedBy(event);
        if (!started) continue;
        if (!providers) throw new Problem(orderProblemKind('fulfilment_off'));
        const { name, sagaId } = started;
        const { append, work } = runner.begin(name, { sagaId, orderId, metadata, at: recordedAt });
        return { appends: [append], sagas: [work] };
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

function sagaStartedBy({ type, data }: OrderEvent) {
  if (type === 'FulfilmentStarted') return { name: FULFILMENT, sagaId: data.sagaId };
  return type === 'RefundRequested' ? { name: REFUND, sagaId: data.sagaId } : undefined;
}
