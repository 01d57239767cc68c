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

/** The versions of the contract. The simulator speaks both, over the same keys. */
export const contractVersion = z.union([z.literal(1), z.literal(2)]);
export type ContractVersion = z.infer<typeof contractVersion>;

const key = z.string().regex(/^[\x21-\x7e]{1,255}$/);
const text = z.string().min(1).max(255);
/** Personal data is limited by the service, in code points. */
const longText = z.string().min(1).max(1_000);
const paymentMethod = longText.refine((value) => Array.from(value).length <= 255);
const money = {
  amountCents: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/),
};
const item = z.strictObject({ sku: text, quantity: z.int().min(1) });
const shippingAddress = z.strictObject({
  name: longText,
  line1: longText,
  line2: longText.exactOptional(),
  postalCode: longText,
  city: longText,
  region: longText.exactOptional(),
  country: z.string().regex(/^[A-Z]{2}$/),
});
const contact = z.strictObject({
  email: longText.exactOptional(),
  phone: longText.exactOptional(),
});

const captureBody = z.strictObject({ orderId: text, ...money });
const shipmentBody = z.strictObject({ orderId: text, items: z.array(item).min(1).max(200) });
const captureBody2 = captureBody.extend({ paymentMethod: paymentMethod.exactOptional() });
const shipmentBody2 = shipmentBody.extend({
  items: z
    .array(
      item.extend({ lineId: text.exactOptional(), name: z.string().max(1_000).exactOptional() }),
    )
    .min(1)
    .max(200),
  shippingAddress: shippingAddress.exactOptional(),
  contact: contact.exactOptional(),
});

/** What is the same in both versions. */
const shared = [
  z.object({
    operation: z.literal('refund'),
    key,
    body: z.strictObject({ orderId: text, paymentId: text, ...money }),
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
] as const;

const requestOf1 = z.discriminatedUnion('operation', [
  z.object({ operation: z.literal('capture'), key, body: captureBody }),
  z.object({ operation: z.literal('ship'), key, body: shipmentBody }),
  ...shared,
]);
const requestOf2 = z.discriminatedUnion('operation', [
  z.object({ operation: z.literal('capture'), key, body: captureBody2 }),
  z.object({ operation: z.literal('ship'), key, body: shipmentBody2 }),
  ...shared,
]);

/** A request of the contract, validated. What version 1 does not know is not in its requests. */
export type ContractRequest = Readonly<z.infer<typeof requestOf2>>;

/** The schema of the requests of a version. */
export function contractRequest(version: ContractVersion): z.ZodType<ContractRequest> {
  return version === 1 ? requestOf1 : requestOf2;
}

/** A response of the contract. */
export const contractResponse = z.object({
  status: z.int(),
  body: z.record(z.string(), z.unknown()),
});
export type ContractResponse = Readonly<z.infer<typeof contractResponse>>;

/** Those of version 1. Version 2 has them under `/v2`. */
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

/** The version and the operation of a method and a path, with the key if the path contains one. */
export function readRoute(
  method: string,
  path: string,
):
  | Readonly<{ contract: ContractVersion; operation: Operation; key: string | undefined }>
  | undefined {
  const contract = path.startsWith('/v2/') ? 2 : 1;
  const [, provider, resource, key, ...rest] = path.slice(contract === 2 ? 3 : 0).split('/');
  const parts = [provider, resource, ...(key === undefined ? [] : ['{key}', ...rest])];
  const operation = ROUTES[`${method} /${parts.join('/')}`];
  return operation && { contract, operation, key: key === undefined ? undefined : decodeKey(key) };
}

function decodeKey(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}
