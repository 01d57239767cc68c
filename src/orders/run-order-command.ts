import { ifMatchHolds } from '#src/http/entity-tags.ts';
import type { EntityTags } from '#src/http/entity-tags.ts';
import { PRINCIPAL } from '#src/http/idempotency.ts';
import type { InFlight } from '#src/http/idempotency.ts';
import { Problem } from '#src/http/problem.ts';
import type { ReadyAnswer, RouteRequest } from '#src/http/route.ts';
import type { OrderCommand } from './domain/order-commands.ts';
import type { HandleOrderCommand, OrderCommandResponse } from './handle-order-command.ts';
import { orderProblemKinds, toOrderProblem } from './order-problems.ts';

export type CommandOutcome = 'ok' | 'replayed' | 'conflict' | 'rejected' | 'shed' | 'unknown';

export type OrderCommandDependencies = Readonly<{
  handle: HandleOrderCommand;
  inFlight: InFlight;
  countCommand: (command: string, outcome: CommandOutcome) => void;
}>;

type CommandHeaders = Readonly<{
  'idempotency-key'?: string | undefined;
  'if-match'?: EntityTags | undefined;
}>;

export type OrderCommandRequest = Omit<
  RouteRequest<unknown, unknown, CommandHeaders, unknown>,
  'params' | 'query' | 'body'
>;

/** Runs one command for its route. @throws Problem */
export type RunOrderCommand = (
  request: OrderCommandRequest,
  orderId: string,
  command: OrderCommand,
) => Promise<ReadyAnswer>;

/** From HTTP to the command and back: headers in, answer or problem out, everything counted. */
export function createRunOrderCommand(dependencies: OrderCommandDependencies): RunOrderCommand {
  const { handle, inFlight, countCommand } = dependencies;
  return async (request, orderId, command) => {
    const { keyed } = request;
    const ifMatch = request.headers['if-match'];
    const run = () =>
      handle({
        orderId,
        command,
        metadata: {
          correlationId: request.requestId,
          actor: PRINCIPAL,
          ...(request.traceparent !== undefined && { traceparent: request.traceparent }),
        },
        ...(ifMatch && { matches: (version) => ifMatchHolds(ifMatch, version) }),
        keyed,
      });
    try {
      const answer = await inFlight.run(keyed, run);
      countCommand(command.type, answer.replayed ? 'replayed' : 'ok');
      return toReadyAnswer(answer);
    } catch (error) {
      const problem = toOrderProblem(error, { ifMatch, ...(keyed ? {} : { orderId }) });
      countCommand(command.type, outcomeOf(problem));
      throw problem;
    }
  };
}

function toReadyAnswer({
  status,
  body,
  etag,
  location,
  replayed,
}: OrderCommandResponse): ReadyAnswer {
  return {
    status,
    text: body,
    headers: {
      ...(etag !== null && { etag }),
      ...(location !== null && { location }),
      ...(replayed && { 'idempotency-replayed': 'true' }),
    },
  };
}

function outcomeOf(problem: unknown): CommandOutcome {
  if (!(problem instanceof Problem)) return 'unknown';
  const { outcomeUnknown, versionConflict } = orderProblemKinds;
  if (problem.code === outcomeUnknown.code) return 'unknown';
  if (problem.code === versionConflict.code || problem.status === 412) return 'conflict';
  return problem.status === 503 ? 'shed' : 'rejected';
}
