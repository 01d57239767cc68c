import type { CancelOutcome, LookUpOutcome, SendOutcome } from '#src/sagas/saga-definition.ts';

/** A parcel to send. One key stands for one shipment, for ever, with one content. */
export type ShipmentRequest = Readonly<{
  key: string;
  orderId: string;
  items: readonly Readonly<{ sku: string; quantity: number }>[];
}>;

/** A parcel that the carrier has accepted. */
export type Shipment = Readonly<{ trackingNumber: string; carrier: string }>;

/**
 * Hands parcels to a carrier. No call throws. An aborted `signal` ends the wait for the answer,
 * not what it asked for.
 */
export type ShippingProvider = Readonly<{
  ship(request: ShipmentRequest, signal?: AbortSignal): Promise<SendOutcome<Shipment>>;
  lookUpShipment(
    request: Readonly<{ key: string; orderId: string }>,
    signal?: AbortSignal,
  ): Promise<LookUpOutcome<Shipment>>;
  /** Settles the key: an accepted parcel is `already_done`; otherwise none is ever accepted. */
  cancelShipment(
    request: Readonly<{ key: string; orderId: string }>,
    signal?: AbortSignal,
  ): Promise<CancelOutcome<Shipment>>;
}>;
