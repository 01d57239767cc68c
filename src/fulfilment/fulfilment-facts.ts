import { z } from 'zod';

const cents = z.int().min(0);

/** What the calls of the saga say, as their intents keep it; the key is beside it. */
export const captureIntent = z.object({
  orderId: z.string(),
  amountCents: cents,
  currency: z.string(),
});
export const refundIntent = captureIntent.extend({ paymentId: z.string() });
export const shipmentIntent = z.object({
  orderId: z.string(),
  items: z.array(z.object({ sku: z.string(), quantity: z.int() })),
});
/** `openKey` is the key of the call that is to be settled. */
export const cancelIntent = z.object({ orderId: z.string(), openKey: z.string() });

/** What came of them, as the provider stated it. */
export const captured = z.object({
  paymentId: z.string(),
  amountCents: cents,
  currency: z.string(),
});
export const refunded = captured.extend({ refundId: z.string() });
export const shipped = z.object({ trackingNumber: z.string(), carrier: z.string() });
