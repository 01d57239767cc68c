-- What ended before there was a trigger for it. In a transaction of its own: it may take a while, and holds
-- no lock that anybody waits for.
with ended as (
  delete from only saga_work where state in ('completed', 'compensated') returning *
)
insert into saga_ended select * from ended;
