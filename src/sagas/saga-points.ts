import { actionsOf, cancelledStep } from './saga-definition.ts';
import type { CallName, SagaDefinition } from './saga-definition.ts';

/**
 * A moment at which a process may die. Calls, and the commits that record them, are named after their action.
 * `start` is the first commit of a run.
 */
export type SagaPoint = `${'before' | 'after'} ${'commit' | CallName} ${string}` | 'after claim';

/** Called at every point of a run, in order. A test may wait here, or end the process. */
export type ObserveSaga = (point: SagaPoint, sagaId: string) => void | Promise<void>;

/** Every point that a run of this definition can pass, so that no test can forget one. */
export function sagaPoints(definition: SagaDefinition): readonly SagaPoint[] {
  const calls = actionsOf(definition).filter(({ kind }) => kind === 'call');
  const points: SagaPoint[] = ['after claim', ...around('commit', 'start')];
  for (const { name } of calls) {
    points.push(...(cancelledStep(definition, name) ? around('cancel', name) : aroundEffect(name)));
    points.push(...around('commit', name));
  }
  return points;
}

function aroundEffect(step: string): SagaPoint[] {
  return [...around('look_up', step), ...around('send', step)];
}

function around(what: 'commit' | CallName, step: string): SagaPoint[] {
  return [`before ${what} ${step}`, `after ${what} ${step}`];
}
