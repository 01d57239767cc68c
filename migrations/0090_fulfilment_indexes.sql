-- no transaction
-- An order has one fulfilment, and may have other sagas beside it: one for each refund. Until now the pair of order
-- and definition was unique. An interrupted run leaves an invalid index.
drop index concurrently if exists saga_work_fulfilment;
create unique index concurrently saga_work_fulfilment on saga_work (subject_id)
  where definition = 'fulfilment';
drop index concurrently if exists saga_ended_fulfilment;
create unique index concurrently saga_ended_fulfilment on saga_ended (subject_id)
  where definition = 'fulfilment';
