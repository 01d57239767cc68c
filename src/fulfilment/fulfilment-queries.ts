import type { Reads } from '#src/database/reads.ts';
import type { FulfilmentState } from '#src/orders/order-view.ts';

/** The fulfilment of an order in the queue. Instants are ISO 8601 in UTC. */
export type FulfilmentRow = Readonly<{
  sagaId: string;
  state: FulfilmentState;
  reason: string | null;
  definitionVersion: number;
  /** Moves with every change of hands. */
  epoch: number;
  step: string | null;
  /** When it is tried next; null while it is being tried. */
  dueAt: string | null;
  deadlineAt: string | null;
}>;

type Row = Readonly<{
  saga_id: string;
  subject_id: string;
  definition_version: number;
  epoch: number;
  state: FulfilmentState;
  reason: string | null;
  step: string | null;
  owner: string | null;
  due_at: Date | null;
  deadline_at: Date | null;
}>;

const sagas = ({ knex }: Reads) => knex('saga_work').where('definition', 'fulfilment');

/** Null where the order has no fulfilment. */
export async function readFulfilmentRow(
  reads: Reads,
  orderId: string,
): Promise<FulfilmentRow | null> {
  const [row] = await reads.rows<Row>(sagas(reads).select('*').where('subject_id', orderId));
  if (!row) return null;
  return {
    sagaId: row.saga_id,
    state: row.state,
    reason: row.reason,
    definitionVersion: row.definition_version,
    epoch: row.epoch,
    step: row.step,
    dueAt: row.owner === null ? (row.due_at?.toISOString() ?? null) : null,
    deadlineAt: row.deadline_at?.toISOString() ?? null,
  };
}

/** How far the fulfilments of these orders are; an order without one is not in the answer. */
export async function readFulfilmentStates(
  reads: Reads,
  orderIds: readonly string[],
): Promise<ReadonlyMap<string, FulfilmentState>> {
  if (orderIds.length === 0) return new Map();
  const rows = await reads.rows<Row>(
    sagas(reads)
      .select('subject_id', 'state')
      .whereIn('subject_id', [...orderIds]),
  );
  return new Map(rows.map(({ subject_id: orderId, state }) => [orderId, state]));
}
