import { z } from 'zod';
import type { HttpResponse } from '#test/support/http-client.ts';
import { personal } from '#test/support/personal-data.ts';
import { eventually } from '#test/support/poll.ts';
import { TWO_BOOKS, orderIn } from '#test/support/saga/api.ts';
import type { SagaApi } from '#test/support/saga/api.ts';
import type { SagaWorld } from '#test/support/saga/world.ts';

/** A command that would be obeyed, and another one of the same route. */
export type Ready = Readonly<{
  method: string;
  path: string;
  body?: unknown;
  otherBody?: unknown;
  /** What has the ETag that the command's If-Match asks for. */
  resource?: string;
}>;

/** Every command of the service, by operationId. */
export const COMMANDS = [
  'placeOrder',
  'payOrder',
  'shipOrder',
  'deliverParcel',
  'returnItems',
  'cancelOrder',
  'refundOrder',
  'fulfilOrder',
  'changeShippingAddress',
  'erasePersonalDataOfOrder',
  'erasePersonalDataOfCustomer',
  'retryFulfilment',
  'resolveFulfilment',
  'retryRefund',
  'resolveRefund',
  'setStock',
  'adjustStock',
] as const;

const PAYMENT = { paymentId: 'pay-1', amountCents: 2500 };
let skus = 0;
let customers = 0;

/** For each command of the service, by operationId: brings something into the state that it needs. */
export function commandScenarios(
  { simulator, setStock }: Pick<SagaWorld, 'simulator' | 'setStock'>,
  api: SagaApi,
): Readonly<Record<string, () => Promise<Ready>>> {
  const onOrder = (
    command: string,
    orderId: string,
    body?: unknown,
    otherBody?: unknown,
  ): Ready => ({
    method: 'POST',
    path: `/v1/orders/${orderId}/${command}`,
    ...(body !== undefined && { body, otherBody }),
    // Of a saga, without the last part of the path.
    resource: `/v1/orders/${orderId}/${command}`.replace(/\/[^/]+$/, ''),
  });
  const byHand = async (...commands: readonly (readonly [string, unknown])[]) => {
    const orderId = await api.placed(TWO_BOOKS, 'manual');
    for (const [command, body] of commands) accepted(await api.command(command, orderId, body));
    return orderId;
  };
  const stuck = async () => {
    const items = [{ ...TWO_BOOKS[0]!, sku: await stocked() }];
    const orderId = await api.placed(items, 'manual');
    await simulator.addFault({ operation: 'ship', orderId, fault: 'refuse', times: 1 });
    await simulator.addFault({ operation: 'refund', orderId, fault: 'refuse', times: 1 });
    accepted(await api.command('fulfil', orderId));
    await eventually(async () => (await api.fulfilment(orderId)).state === 'stuck');
    return orderId;
  };
  const stuckRefund = async () => {
    const orderId = await api.placed([{ ...TWO_BOOKS[0]!, sku: await stocked() }]);
    await eventually(async () => (await api.fulfilment(orderId)).state === 'completed');
    await simulator.addFault({ operation: 'refund', orderId, fault: 'other_amount', times: 1 });
    accepted(await api.command('refund', orderId, { refundId: 'ref-1', amountCents: 1000 }));
    await eventually(async () => (await api.refunds(orderId))[0]?.state === 'stuck');
    return orderId;
  };
  const stocked = async () => {
    const sku = `sku ${(skus += 1)}`;
    await setStock(sku, 10);
    return sku;
  };
  const onStock = async (method: string, rest: string, body: unknown, otherBody: unknown) => {
    const resource = `/v1/stock/${encodeURIComponent(await stocked())}`;
    return { method, path: resource + rest, body, otherBody, resource };
  };
  /** An order of a new customer. */
  const withPersonalData = async () => {
    const customerId = `personal-${(customers += 1)}`;
    const body = { customerId, currency: 'EUR', items: TWO_BOOKS, ...personal };
    const placed = orderIn(await api.request('POST', '/v1/orders', { body }));
    return { customerId, orderId: placed.orderId };
  };
  const order = { customerId: 'c-1', currency: 'EUR', items: TWO_BOOKS };
  const resolution = { step: 'refund', outcome: 'notDone', reason: 'not there' };
  const scenarios: Record<(typeof COMMANDS)[number], () => Promise<Ready>> = {
    placeOrder: async () => ({
      method: 'POST',
      path: '/v1/orders',
      body: order,
      otherBody: { ...order, customerId: 'c-2' },
    }),
    payOrder: async () =>
      onOrder('pay', await byHand(), PAYMENT, { ...PAYMENT, paymentId: 'pay-2' }),
    shipOrder: async () => {
      const parcel = { trackingNumber: 'T-1', carrier: 'post' };
      return onOrder('ship', await byHand(['pay', PAYMENT]), parcel, { ...parcel, carrier: 'x' });
    },
    deliverParcel: async () => {
      const second = { trackingNumber: 'T-2', carrier: 'post' };
      const first = {
        trackingNumber: 'T-1',
        carrier: 'post',
        items: [{ lineId: '1', quantity: 1 }],
      };
      const orderId = await byHand(['pay', PAYMENT], ['ship', first], ['ship', second]);
      return onOrder('deliver', orderId, { trackingNumber: 'T-1' }, { trackingNumber: 'T-2' });
    },
    returnItems: async () => {
      const parcel = { trackingNumber: 'T-1', carrier: 'post' };
      const orderId = await byHand(['pay', PAYMENT], ['ship', parcel]);
      const body = { returnId: 'ret-1', items: [{ lineId: '1', quantity: 1 }], reason: 'small' };
      return onOrder('return', orderId, body, { ...body, reason: 'large' });
    },
    cancelOrder: async () =>
      onOrder('cancel', await byHand(), { reason: 'late' }, { reason: 'too dear' }),
    refundOrder: async () => {
      const orderId = await byHand(['pay', PAYMENT], ['cancel', { reason: 'late' }]);
      const refund = { refundId: 'ref-1', amountCents: 1000 };
      return onOrder('refund', orderId, refund, { ...refund, amountCents: 900 });
    },
    fulfilOrder: async () => onOrder('fulfil', await byHand()),
    changeShippingAddress: async () => {
      const { shippingAddress: body } = personal;
      const { orderId } = await withPersonalData();
      const ready = onOrder('shipping-address', orderId, { ...body, city: 'Bonn' }, body);
      return { ...ready, method: 'PUT' };
    },
    erasePersonalDataOfOrder: async () => {
      const { orderId } = await withPersonalData();
      return { ...onOrder('personal-data', orderId), method: 'DELETE' };
    },
    erasePersonalDataOfCustomer: async () => {
      const { customerId } = await withPersonalData();
      return { method: 'DELETE', path: `/v1/customers/${customerId}/personal-data` };
    },
    retryFulfilment: async () => onOrder('fulfilment/retry', await stuck()),
    resolveFulfilment: async () =>
      onOrder('fulfilment/resolve', await stuck(), resolution, { ...resolution, reason: 'other' }),
    retryRefund: async () => onOrder('refunds/ref-1/retry', await stuckRefund()),
    resolveRefund: async () =>
      onOrder('refunds/ref-1/resolve', await stuckRefund(), resolution, {
        ...resolution,
        reason: 'other',
      }),
    setStock: () => onStock('PUT', '', { onHand: 7 }, { onHand: 8 }),
    adjustStock: () => onStock('POST', '/adjust', { delta: -2 }, { delta: -3 }),
  };
  return scenarios;
}

/** The operations of the OpenAPI document that change something. */
export async function commandOperations(api: SagaApi) {
  const document = documentShape.parse(
    JSON.parse((await api.request('GET', '/openapi.json')).text),
  );
  return Object.values(document.paths)
    .flatMap((methods) => Object.entries(methods))
    .filter(([method]) => method !== 'get')
    .map(([, operation]) => operation);
}

const documentShape = z.looseObject({
  paths: z.record(
    z.string(),
    z.record(
      z.string(),
      z.looseObject({
        operationId: z.string(),
        parameters: z.array(z.looseObject({ name: z.string(), in: z.string() })),
      }),
    ),
  ),
});

function accepted({ status, text }: HttpResponse): void {
  if (status < 200 || status > 299) throw new Error(`got ${status}: ${text}`);
}
