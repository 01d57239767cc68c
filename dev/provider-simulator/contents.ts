import { createHash, randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type { ContractRequest, ContractVersion } from './contract.ts';

const CARRIER = 'Simulated Post';

/** Lines and names, in the order of the items. */
const lines = z.array(
  z.object({ lineId: z.string().exactOptional(), name: z.string().exactOptional() }),
);

/** What only version 2 says. The ledger is a file, so secrets and personal data are digests in it. */
export const details = z.object({
  paymentMethod: z.string().exactOptional(),
  shippingAddress: z.object({ country: z.string(), digest: z.string() }).exactOptional(),
  contact: z.string().exactOptional(),
  lines: lines.exactOptional(),
});

/** The content of a request. `request` is the JSON of what both versions know. */
export type Content = Readonly<{ request: string; details?: z.infer<typeof details> }>;

/** The requests that have an effect. */
export type ActingRequest = Extract<ContractRequest, { operation: 'capture' | 'refund' | 'ship' }>;

/** The content that a key is held to. */
export function contentOf(contract: ContractVersion, request: ActingRequest): Content {
  const common = JSON.stringify(commonOf(request));
  return contract === 1 ? { request: common } : { request: common, details: detailsOf(request) };
}

/** Whether both mean the same. What only version 2 says is compared only if both are of version 2. */
export function isSame(known: Content, asked: Content): boolean {
  if (known.request !== asked.request) return false;
  if (known.details === undefined || asked.details === undefined) return true;
  return isDeepStrictEqual(known.details, asked.details);
}

/** SHA-256 of a text, or of an object whatever the order of its fields, in hex. */
export function digestOf(value: string | object): string {
  const text =
    typeof value === 'string' ? value : JSON.stringify(value, Object.keys(value).toSorted());
  return createHash('sha256').update(text).digest('hex');
}

function commonOf({ operation, body }: ActingRequest): object {
  if (operation === 'refund') return body;
  const { orderId } = body;
  if (operation === 'capture') {
    return { orderId, amountCents: body.amountCents, currency: body.currency };
  }
  return { orderId, items: body.items.map(({ sku, quantity }) => ({ sku, quantity })) };
}

function detailsOf({ operation, body }: ActingRequest): z.infer<typeof details> {
  if (operation === 'refund') return {};
  if (operation === 'capture') {
    const { paymentMethod } = body;
    return paymentMethod === undefined ? {} : { paymentMethod: digestOf(paymentMethod) };
  }
  const { shippingAddress: address, contact, items } = body;
  return {
    ...(address && {
      shippingAddress: { country: address.country, digest: digestOf(address) },
    }),
    ...(contact && { contact: digestOf(contact) }),
    lines: lines.parse(items),
  };
}

/** A parcel, as version 2 states it. */
export const parcel = z.object({
  trackingNumber: z.string(),
  carrier: z.string(),
  items: z.array(z.object({ lineId: z.string(), quantity: z.int() })).exactOptional(),
});
export type Parcel = Readonly<z.infer<typeof parcel>>;

type ShippedItems = Extract<ActingRequest, { operation: 'ship' }>['body']['items'];

/**
 * Packs `count` parcels, or as many as there are pieces, by dealing out the pieces one by one. One parcel does
 * not name its items. Without line ids there is only one.
 */
export function pack(items: ShippedItems, count: number): Parcel[] {
  const named = items.flatMap(({ lineId, quantity }) => (lineId ? [{ lineId, quantity }] : []));
  if (count === 1 || named.length < items.length) return [newParcel()];
  const contents = Array.from({ length: count }, (): typeof named => []);
  let next = 0;
  for (const { lineId, quantity } of named) {
    for (const [index, content] of contents.entries()) {
      const place = (index - next + count) % count;
      const share = Math.floor(quantity / count) + (place < quantity % count ? 1 : 0);
      if (share > 0) content.push({ lineId, quantity: share });
    }
    next = (next + quantity) % count;
  }
  return contents.filter((each) => each.length > 0).map((each) => newParcel(each));
}

function newParcel(items?: Parcel['items']): Parcel {
  const trackingNumber = `SIM${randomUUID().replaceAll('-', '').slice(0, 16).toUpperCase()}`;
  return { trackingNumber, carrier: CARRIER, ...(items && { items }) };
}
