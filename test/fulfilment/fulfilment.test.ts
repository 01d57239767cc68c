import { describe, expect, test } from 'vitest';
import { skipReason } from '#test/support/infra.ts';
import { createService, createWorld, resting, stock } from './fulfilment-service.ts';

describe.skipIf(skipReason('postgres'))('the fulfilment of an order', () => {
  test('reserves, captures and ships', async () => {
    await using world = await createWorld();
    await using service = createService(world);
    await service.start();
    await service.setOnHand('book', 10);
    const orderId = await service.place();
    expect(await resting(service, orderId)).toBe('completed');
    expect(await service.order(orderId)).toMatchObject({ status: 'shipped', capturedCents: 2500 });
    expect(await stock(world)).toEqual({ book: [8, 0] });
    expect(await service.sagaEvents(orderId)).toEqual([
      'SagaStarted',
      'StepDone reserve',
      'StepRequested capture',
      'StepDone capture',
      'StepRequested ship',
      'StepDone ship',
      'SagaCompleted',
    ]);
  });
});
