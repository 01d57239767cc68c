import { z } from 'zod';

/** What can be asked of the two providers. */
export const operations = [
  'capture',
  'look_up_capture',
  'cancel_capture',
  'refund',
  'look_up_refund',
  'ship',
  'look_up_shipment',
  'cancel_shipment',
] as const;
export const operation = z.enum(operations);
export type Operation = z.infer<typeof operation>;

/** A call as it arrived. `attempt` counts the calls of this operation with this key, from 1. */
export const simulatedCall = z.object({
  number: z.int(),
  operation,
  key: z.string(),
  orderId: z.string(),
  attempt: z.int(),
});
export type SimulatedCall = Readonly<z.infer<typeof simulatedCall>>;

/** Which calls are meant: by operation, start of the key, order. What is left out says nothing. */
export const selection = z.strictObject({
  operation: operation.optional(),
  key: z.string().optional(),
  orderId: z.string().optional(),
});
export type Selection = Readonly<z.infer<typeof selection>>;

export function selects(chosen: Selection, call: Omit<SimulatedCall, 'number'>): boolean {
  return (
    (chosen.operation === undefined || chosen.operation === call.operation) &&
    (chosen.key === undefined || call.key.startsWith(chosen.key)) &&
    (chosen.orderId === undefined || chosen.orderId === call.orderId)
  );
}
