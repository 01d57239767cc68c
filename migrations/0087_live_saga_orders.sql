-- As 0086 for the sagas that live. In a transaction of its own: a step that meets one of these rows is given back and
-- tried again.
update only saga_work as w set placed_at = o.placed_at, customer_id = o.customer_id
from orders_summary as o
where o.order_id = w.subject_id and w.placed_at is null
  and w.state in ('running', 'compensating', 'stuck');
