import { expect } from 'vitest';

type Decider<State, Command, Event> = Readonly<{
  initial: State;
  evolve: (state: State, event: Event) => State;
  decide: (command: Command, state: State) => Event[];
}>;

/**
 * Tests a decider in sentences: given these events, when this command, it emits those events or rejects with
 * that code. The last method of a sentence runs it.
 */
export function specFor<State, Command, Event>(decider: Decider<State, Command, Event>) {
  return (...history: Event[]) => ({
    when(command: Command) {
      const run = () => decider.decide(command, history.reduce(decider.evolve, decider.initial));
      return {
        emits(...events: [Event, ...Event[]]) {
          expect(run()).toEqual(events);
        },
        emitsNothing() {
          expect(run()).toEqual([]);
        },
        rejects(code: string) {
          expect(run).toThrow(expect.objectContaining({ code }));
        },
      };
    },
  });
}
