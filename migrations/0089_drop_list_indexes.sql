-- no transaction
-- The indexes of 0088 serve what these served. A replica of the release before lists by customer or by status while the
-- deployment lasts: it then sorts the orders of that customer or that status. A new order enters two indexes less.
drop index concurrently if exists orders_summary_customer;
drop index concurrently if exists orders_summary_status;
drop index concurrently if exists orders_summary_customer_status;
