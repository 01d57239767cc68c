import { z } from 'zod';
import type { Operation } from './simulated-call.ts';

const key = z.string().regex(/^[\x21-\x7e]{1,255}$/);
const text = z.string().min(1).max(255);
const money = {
  amountCents: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/),
};
const item = z.strictObject({ sku: text, quantity: z.int().min(1) });

/** A request of the contract in docs/providers.md, checked. */
export const contractRequest = z.discriminatedUnion('operation', [
  z.object({
    operation: z.literal('capture'),
    key,
    body: z.strictObject({ orderId: text, ...money }),
  }),
  z.object({
    operation: z.literal('refund'),
    key,
    body: z.strictObject({ orderId: text, paymentId: text, ...money }),
  }),
  z.object({
    operation: z.literal('ship'),
    key,
    body: z.strictObject({ orderId: text, items: z.array(item).min(1).max(200) }),
  }),
  z.object({
    operation: z.enum(['cancel_capture', 'cancel_shipment']),
    key,
    body: z.strictObject({ orderId: text }),
  }),
  z.object({
    operation: z.enum(['look_up_capture', 'look_up_refund', 'look_up_shipment']),
    key,
  }),
]);
export type ContractRequest = Readonly<z.infer<typeof contractRequest>>;

/** Method and path of each operation; a lone `*` stands for the key. */
const routes: Readonly<Record<string, Operation>> = {
  'POST /payments/captures': 'capture',
  'GET /payments/captures/*': 'look_up_capture',
  'POST /payments/captures/*/cancel': 'cancel_capture',
  'POST /payments/refunds': 'refund',
  'GET /payments/refunds/*': 'look_up_refund',
  'POST /shipping/shipments': 'ship',
  'GET /shipping/shipments/*': 'look_up_shipment',
  'POST /shipping/shipments/*/cancel': 'cancel_shipment',
};

/** The operation that a method and a path stand for, with the key if the path names it. */
export function readRoute(
  method: string,
  path: string,
): Readonly<{ operation: Operation; key: string | undefined }> | undefined {
  const [, first, second, name, ...rest] = path.split('/');
  const pattern = ['', first, second, ...(name === undefined ? [] : ['*']), ...rest].join('/');
  const operation = routes[`${method} ${pattern}`];
  return operation && { operation, key: name === undefined ? undefined : decodeKey(name) };
}

function decodeKey(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}
