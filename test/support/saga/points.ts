import type { GroupCommit, Work } from '#src/event-store/group-commit.ts';
import type { Providers } from '#src/fulfilment/providers/providers.ts';
import { actionsOf, cancelledStep } from '#src/sagas/saga-definition.ts';
import type { SagaDefinition } from '#src/sagas/saga-definition.ts';

type PointedCall = 'commit' | 'look_up' | 'send' | 'cancel';

/**
 * A moment at which a process may die. Calls, and the commits that record them, are named after their step.
 * `start` is the first commit of a run. A run that claimed its saga has passed `after claim` before.
 */
export type SagaPoint = `${'before' | 'after'} ${PointedCall} ${string}` | 'after claim';

/** A point of any saga of an order: a refund passes the same ones as the fulfilment, and has its own. */
export type OrderPoint = SagaPoint | `refund: ${SagaPoint}`;

export function pointOf(definition: string, point: SagaPoint): OrderPoint {
  return definition === 'refund' ? `refund: ${point}` : point;
}

/** Called at every point, in order. It may wait there, or end the process. */
export type ObserveSaga = (point: SagaPoint, sagaId: string) => unknown;

/** A key begins with the id of its saga. */
const SAGA_ID_LENGTH = 36;

/** Every point that a run of this definition can pass, so that no test can forget one. */
export function sagaPoints(definition: SagaDefinition): SagaPoint[] {
  const around = (call: PointedCall, step: string): SagaPoint[] => [
    `before ${call} ${step}`,
    `after ${call} ${step}`,
  ];
  const calls = actionsOf(definition).filter(({ kind }) => kind === 'call');
  const points: SagaPoint[] = ['after claim', ...around('commit', 'start')];
  for (const { name } of calls) {
    const isCancel = cancelledStep(definition, name) !== undefined;
    points.push(...(isCancel ? around('cancel', name) : around('send', name)));
    points.push(...(isCancel ? [] : around('look_up', name)), ...around('commit', name));
  }
  return points;
}

/** The same, as the points of an order. */
export function orderPoints(definition: SagaDefinition): OrderPoint[] {
  return sagaPoints(definition).map((point) => pointOf(definition.name, point));
}

/** Wraps the ports of one process, the commit and the providers, so that every point of its sagas is seen. */
export function watchPoints(observe: ObserveSaga) {
  /** What the next commit of each saga records. A saga that this process has just claimed is not in it. */
  const recorded = new Map<string, string>();

  const call = <Request extends Readonly<{ key: string }>, Outcome>(
    name: PointedCall,
    step: string,
    real: (request: Request, signal?: AbortSignal) => Promise<Outcome>,
  ) => {
    return async (request: Request, signal?: AbortSignal): Promise<Outcome> => {
      const sagaId = request.key.slice(0, SAGA_ID_LENGTH);
      await observe(`before ${name} ${step}`, sagaId);
      const outcome = await real(request, signal);
      await observe(`after ${name} ${step}`, sagaId);
      recorded.set(sagaId, step);
      return outcome;
    };
  };

  /** Notes the sagas that the process starts. */
  const noting = <Result>(work: Work<Result>): Work<Result> => ({
    ...work,
    decide: (loaded, refusedBy) => {
      const decision = work.decide(loaded, refusedBy);
      for (const row of decision.unit?.sagas ?? []) {
        if (row.op === 'begin' && row.owner !== null) recorded.set(row.saga_id, 'start');
      }
      return decision;
    },
  });

  return {
    wrapCommit: (real: GroupCommit): GroupCommit => ({
      ...real,
      submit: async (work) => {
        const [sagaId] = work.loads;
        if (!work.hasReservedRoom || sagaId === undefined) return real.submit(noting(work));
        if (!recorded.has(sagaId)) await observe('after claim', sagaId);
        const step = recorded.get(sagaId) ?? 'start';
        recorded.delete(sagaId);
        await observe(`before commit ${step}`, sagaId);
        try {
          const result = await real.submit(work);
          await observe(`after commit ${step}`, sagaId);
          return result;
        } catch (error) {
          recorded.set(sagaId, step); // it is tried again
          throw error;
        }
      },
    }),
    wrapProviders: ({ payments, shipping }: Providers): Providers => ({
      payments: {
        capture: call('send', 'capture', payments.capture),
        lookUpCapture: call('look_up', 'capture', payments.lookUpCapture),
        cancelCapture: call('cancel', 'cancel_capture', payments.cancelCapture),
        refund: call('send', 'refund', payments.refund),
        lookUpRefund: call('look_up', 'refund', payments.lookUpRefund),
      },
      shipping: {
        ship: call('send', 'ship', shipping.ship),
        lookUpShipment: call('look_up', 'ship', shipping.lookUpShipment),
        cancelShipment: call('cancel', 'cancel_shipment', shipping.cancelShipment),
      },
    }),
  };
}

/** A clock that runs `speed` times as fast as the wall's, so that deadlines come at once. */
export function fastClock(speed: number): () => Date {
  const start = Date.now();
  return () => new Date(start + (Date.now() - start) * speed);
}
