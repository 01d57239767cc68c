import { z } from 'zod';
import type { HttpResponse } from '../http-client.ts';
import { eventually } from '../poll.ts';
import type { Random } from '../random.ts';
import { refusalOf } from './api.ts';

/** What a customer does with an order once its fulfilment has ended. All of it follows from the seed. */
export type AfterShipping = Readonly<{
  /** All asked for at once. Together they may be more than was paid. */
  refunds: readonly Readonly<{ percent: number; recordOnly: boolean }>[];
  /** One piece of each line goes back, in as many returns as there are lines. */
  returns: 'restock' | 'throw away' | 'nothing';
  delivers: boolean;
  /** The personal data goes at the end. It is asked for while the fulfilment runs, too. */
  erases: boolean;
}>;

/** Sends a request to a replica, again and again until one has responded. */
export type Ask = (
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  body?: unknown,
) => Promise<HttpResponse>;

const shownOrder = z.looseObject({
  status: z.enum(['pending', 'paid', 'shipped', 'cancelled']),
  totalCents: z.int(),
  items: z.array(z.looseObject({ lineId: z.string() })),
  parcels: z.array(z.looseObject({ trackingNumber: z.string() })),
});
const shownFulfilment = z.looseObject({ state: z.string() });

/** As a customer may be refused who asks for the same money twice. */
const NOT_ENOUGH_LEFT = '409 refund_exceeds_captured';
const RUNNING = '409 fulfilment_running';
const ENDS = new Set(['completed', 'compensated', 'stuck']);

export function drawAfterShipping(random: Random): AfterShipping {
  const refund = () => ({ percent: 20 + random.below(60), recordOnly: random.below(4) === 0 });
  return {
    refunds: Array.from({ length: random.below(4) }, refund),
    returns: (['restock', 'restock', 'throw away', 'nothing'] as const)[random.below(4)]!,
    delivers: random.below(2) === 0,
    erases: random.below(3) === 0,
  };
}

/** Does it, all at once but the erasure. Returns what was refused, which must be what may be refused. */
export async function doAfterShipping(
  ask: Ask,
  orderId: string,
  { refunds, returns, delivers, erases }: AfterShipping,
): Promise<string[]> {
  const path = `/v1/orders/${orderId}`;
  const refused: string[] = [];
  const say = async (method: 'POST' | 'DELETE', name: string, allowed: string, body?: unknown) => {
    const response = await ask(method, `${path}/${name}`, body);
    if (response.status < 400) return;
    const refusal = refusalOf(response);
    if (refusal !== allowed) throw new Error(`${name} got ${response.text}`);
    refused.push(refusal);
  };

  if (erases) await say('DELETE', 'personal-data', RUNNING);
  const hasEnded = async () =>
    ENDS.has(read(await ask('GET', `${path}/fulfilment`), shownFulfilment).state);
  await eventually(hasEnded, { withinMs: 180_000, everyMs: 200 });
  const { status, totalCents, items, parcels } = read(await ask('GET', path), shownOrder);
  if (status !== 'shipped') return refused;

  const sent = refunds.map(({ percent, recordOnly }, index) => {
    const amountCents = Math.floor((totalCents * percent) / 100);
    const body = { refundId: `back-${index}`, amountCents, recordOnly };
    return say('POST', 'refund', NOT_ENOUGH_LEFT, body);
  });
  if (returns !== 'nothing') {
    const reason = 'it does not fit';
    const restock = returns === 'restock';
    for (const { lineId } of items) {
      const body = { returnId: lineId, items: [{ lineId, quantity: 1 }], reason, restock };
      sent.push(say('POST', 'return', '', body));
    }
  }
  if (delivers) {
    sent.push(
      ...parcels.map(({ trackingNumber }) => say('POST', 'deliver', '', { trackingNumber })),
    );
  }
  await Promise.all(sent);
  if (erases) await say('DELETE', 'personal-data', '');
  return refused;
}

function read<T>({ status, text }: HttpResponse, shape: z.ZodType<T>): T {
  if (status !== 200) throw new Error(`got ${status}: ${text.slice(0, 1000)}`);
  return shape.parse(JSON.parse(text));
}
