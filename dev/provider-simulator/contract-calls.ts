import type { ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { ContractRequest } from './contract-requests.ts';
import type { SimulatorParts } from './control-routes.ts';
import type { ChosenFault } from './fault-rules.ts';
import { faults } from './faults.ts';
import type { Fault } from './faults.ts';
import { otherAmount, otherCurrency } from './other-money.ts';
import type { ProviderBooks } from './provider-books.ts';
import { sendAnswer } from './send-answer.ts';
import type { ContractAnswer } from './settled-keys.ts';
import type { SimulatedCall } from './simulated-call.ts';

/** Answers one call of the contract, well or badly, as the rules in force have it. */
export async function answerContractCall(
  { calls, rules, waiting }: SimulatorParts,
  books: ProviderBooks,
  request: ContractRequest,
  response: ServerResponse,
): Promise<void> {
  const orderId = 'body' in request ? request.body.orderId : undefined;
  const call = calls.number(request.operation, request.key, orderId);
  const chosen = rules.choose(call);
  calls.add({ ...call, fault: chosen.name });
  const right = await carryOut(waiting, books, { call, request, chosen });
  if (chosen.delayMs > 0) await delay(chosen.delayMs);
  const { retryAfterSeconds, name } = chosen;
  sendAnswer(response, { kind: faults[name].answer, key: request.key, right, retryAfterSeconds });
}

type Task = Readonly<{ call: SimulatedCall; request: ContractRequest; chosen: ChosenFault }>;

/** Lets the effect happen as the fault has it; resolves to what an honest provider would say. */
async function carryOut(
  waiting: SimulatorParts['waiting'],
  books: ProviderBooks,
  { call, request, chosen }: Task,
): Promise<ContractAnswer | undefined> {
  const { effect }: Fault = faults[chosen.name];
  switch (effect) {
    case 'now':
      return books.perform(call, request);
    case 'never':
      return undefined;
    case 'held': {
      const { promise, resolve } = Promise.withResolvers<ContractAnswer>();
      waiting.add(call, () => resolve(books.perform(call, request)), chosen.lateMs);
      return promise;
    }
    case 'late':
      waiting.add(call, () => void books.perform(call, request), chosen.lateMs);
      return undefined;
    case 'refuse':
      return books.perform(call, request, { refuse: true });
    case 'other_amount':
      return books.perform(call, request, {
        alter: (asked) => ({ ...asked, amountCents: otherAmount(asked.amountCents) }),
      });
    case 'other_currency':
      return books.perform(call, request, {
        alter: (asked) => ({ ...asked, currency: otherCurrency(asked.currency) }),
      });
  }
}
