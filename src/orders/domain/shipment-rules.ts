import type { LineQuantity, OrderEvent } from './order-events.ts';
import { isByHand, refuse } from './order-rule.ts';
import type { Refusal, RulesOf } from './order-rule.ts';
import { isOver, unshipped } from './order.ts';
import type { Order } from './order.ts';

/** Each parcel and each return makes every later fold of the stream longer. */
const PARCELS_MAX = 100;
const RETURNS_MAX = 100;

type GoodsCommand =
  | 'ShipOrder'
  | 'DeliverParcel'
  | 'ReturnItems'
  | 'RequestShipment'
  | 'RecordShipment'
  | 'ChangeShippingAddress'
  | 'ErasePersonalData';

/** The rules of parcels, returns, and the data that is needed to ship. */
export const shipmentRules: RulesOf<GoodsCommand> = {
  /** Each call is one parcel. The parcel that takes all that is left ships the order. */
  ShipOrder: {
    route: 'ship',
    isAllowed: (order) => isByHand(order) && order.status === 'paid',
    isDuplicate: (order, { trackingNumber, items }) =>
      order.parcels.some(
        (known) =>
          known.trackingNumber === trackingNumber &&
          // Without items, the parcel took all that was left: its number is that of the order.
          (items === undefined
            ? order.trackingNumber === trackingNumber
            : isSame(known.items, items)),
      ),
    decide(order, { trackingNumber, carrier, items }) {
      if (hasParcel(order, trackingNumber)) return 'tracking_number_taken';
      if (order.status === 'shipped') return 'order_already_shipped';
      if (order.status === 'cancelled') return 'order_cancelled';
      if (!isByHand(order)) return 'fulfilment_running';
      if (order.status === 'pending') return 'order_not_paid';
      const left = unshipped(order);
      const refusal = items && exceeds(order, items, left, 'shipment_exceeds_ordered');
      if (refusal !== undefined) return refusal;
      if (items === undefined || isSame(items, left)) {
        return [{ type: 'OrderShipped', data: { trackingNumber, carrier } }];
      }
      if (order.parcels.length >= PARCELS_MAX - 1) return 'too_many_parcels';
      return [{ type: 'ParcelShipped', data: { trackingNumber, carrier, items: [...items] } }];
    },
  },

  DeliverParcel: {
    route: 'deliver',
    isAllowed: ({ parcels }) => parcels.some(({ deliveredAt }) => deliveredAt === undefined),
    isDuplicate: ({ parcels }, command) =>
      parcels.some(
        ({ trackingNumber, deliveredAt }) =>
          trackingNumber === command.trackingNumber && deliveredAt !== undefined,
      ),
    decide(order, { trackingNumber }) {
      if (!hasParcel(order, trackingNumber)) return 'parcel_not_found';
      return [{ type: 'ParcelDelivered', data: { trackingNumber } }];
    },
  },

  ReturnItems: {
    route: 'return',
    isAllowed: (order) => returnable(order).length > 0 && order.returns.length < RETURNS_MAX,
    isDuplicate: ({ returns }, { returnId, items, reason, restock }) =>
      returns.some(
        (known) =>
          known.returnId === returnId &&
          known.reason === reason &&
          known.restock === restock &&
          isSame(known.items, items),
      ),
    decide(order, { type: _type, ...data }) {
      const { returnId, items } = data;
      if (order.returns.some((known) => known.returnId === returnId)) return 'return_id_taken';
      const refusal = exceeds(order, items, returnable(order), 'return_exceeds_shipped');
      if (refusal !== undefined) return refusal;
      if (order.returns.length >= RETURNS_MAX) return 'too_many_returns';
      return [{ type: 'ItemsReturned', data }];
    },
  },

  /** Somebody may have reported the payment before the saga knew that it had captured it. */
  RequestShipment: {
    isDuplicate: (order) => order.shipmentRequested,
    decide(order, { capturedPaymentId }) {
      if (order.cancellationRequestedAt !== undefined) return 'cancellation_requested';
      const wasReported = order.payments.some(
        ({ paymentId, source }) => paymentId === capturedPaymentId && source === 'reported',
      );
      const data = wasReported && capturedPaymentId !== undefined ? { capturedPaymentId } : {};
      return [{ type: 'ShipmentRequested', data }];
    },
  },

  /** What has shipped is recorded in every state. The last parcel takes what the others left. */
  RecordShipment: {
    isDuplicate: (order, { parcels }) =>
      parcels.every(({ trackingNumber }) => hasParcel(order, trackingNumber)),
    decide(_, { parcels }) {
      return parcels.map(({ trackingNumber, carrier, items = [] }, index): OrderEvent =>
        index === parcels.length - 1
          ? { type: 'OrderShipped', data: { trackingNumber, carrier } }
          : { type: 'ParcelShipped', data: { trackingNumber, carrier, items: [...items] } },
      );
    },
  },

  ChangeShippingAddress: {
    isDuplicate: () => false,
    decide(order) {
      if (order.status === 'cancelled') return 'order_cancelled';
      if (order.status === 'shipped') return 'order_already_shipped';
      if (order.shipmentRequested) return 'shipment_requested';
      if (order.parcels.length > 0) return 'order_partly_shipped';
      if (order.personalDataErasedAt !== undefined) return 'personal_data_erased';
      return [{ type: 'ShippingAddressChanged', data: {} }];
    },
  },

  /** A running fulfilment still needs the data. */
  ErasePersonalData: {
    isDuplicate: (order) =>
      !order.hasShippingAddress && !order.hasContact && !order.hasPaymentMethod,
    decide(order) {
      if (!isByHand(order) && !isOver(order)) return 'fulfilment_running';
      return [{ type: 'PersonalDataErased', data: {} }];
    },
  },
};

function hasParcel({ parcels }: Order, trackingNumber: string): boolean {
  return parcels.some((parcel) => parcel.trackingNumber === trackingNumber);
}

/** What of each line has shipped and was not returned. */
function returnable({ items }: Order): LineQuantity[] {
  return items.flatMap(({ lineId, shippedQuantity, returnedQuantity }) =>
    shippedQuantity > returnedQuantity
      ? [{ lineId, quantity: shippedQuantity - returnedQuantity }]
      : [],
  );
}

/** Why these items are too many, if they are. No line occurs in them twice. */
function exceeds(
  order: Order,
  items: readonly LineQuantity[],
  left: readonly LineQuantity[],
  code: 'shipment_exceeds_ordered' | 'return_exceeds_shipped',
): Refusal | undefined {
  const leftOf = new Map(left.map(({ lineId, quantity }) => [lineId, quantity]));
  const known = new Set(order.items.map(({ lineId }) => lineId));
  const lines = [...known].map((lineId) => ({ lineId, left: leftOf.get(lineId) ?? 0 }));
  if (items.some(({ lineId }) => !known.has(lineId))) return refuse('line_not_found', { lines });
  const isTooMany = items.some(({ lineId, quantity }) => quantity > (leftOf.get(lineId) ?? 0));
  return isTooMany ? refuse(code, { lines }) : undefined;
}

/** Whether both name the same quantities, in whatever order. */
function isSame(one: readonly LineQuantity[], other: readonly LineQuantity[]): boolean {
  const quantities = new Map(one.map(({ lineId, quantity }) => [lineId, quantity]));
  return (
    one.length === other.length &&
    other.every(({ lineId, quantity }) => quantities.get(lineId) === quantity)
  );
}
