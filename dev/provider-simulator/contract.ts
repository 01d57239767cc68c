import { z } from 'zod';

/** The operations of the two providers, as docs/providers.md names them. */
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

const key = z.string().regex(/^[\x21-\x7e]{1,255}$/);
const text = z.string().min(1).max(255);
const money = {
  amountCents: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/),
};
const item = z.strictObject({ sku: text, quantity: z.int().min(1) });

/** A request of the contract, validated. */
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

/** A response of the contract. */
export const contractResponse = z.object({
  status: z.int(),
  body: z.record(z.string(), z.unknown()),
});
export type ContractResponse = Readonly<z.infer<typeof contractResponse>>;

const ROUTES: Readonly<Record<string, Operation>> = {
  'POST /payments/captures': 'capture',
  'GET /payments/captures/{key}': 'look_up_capture',
  'POST /payments/captures/{key}/cancel': 'cancel_capture',
  'POST /payments/refunds': 'refund',
  'GET /payments/refunds/{key}': 'look_up_refund',
  'POST /shipping/shipments': 'ship',
  'GET /shipping/shipments/{key}': 'look_up_shipment',
  'POST /shipping/shipments/{key}/cancel': 'cancel_shipment',
};

/** The operation of a method and a path, with the key if the path contains one. */
export function readRoute(
  method: string,
  path: string,
): Readonly<{ operation: Operation; key: string | undefined }> | undefined {
  const [, provider, resource, key, ...rest] = path.split('/');
  const parts = [provider, resource, ...(key === undefined ? [] : ['{key}', ...rest])];
  const operation = ROUTES[`${method} /${parts.join('/')}`];
  return operation && { operation, key: key === undefined ? undefined : decodeKey(key) };
}

function decodeKey(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}
