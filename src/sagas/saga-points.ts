import { actionsOf, cancelledStep } from './saga-definition.ts';
import type { CallName, SagaDefinition } from './saga-definition.ts';

/**
 * A moment at which a process may die. `start` is the commit of a saga that has just been taken up; the
 * other commits and the calls go by the action whose call they record or make.
 */
export type SagaPoint = `${'before' | 'after'} ${'commit' | CallName} ${string}` | 'after claim';

/** Passed by every run, in order: a test may stop time here, or end the process. */
export type ObserveSaga = (point: SagaPoint, sagaId: string) => void | Promise<void>;

/** Every point that runs of this definition can pass, so that none can be forgotten. */
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
