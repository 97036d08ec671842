-- The server's time: seconds, and microseconds within the second.
--
-- KEYS  a record: in a cluster it is the time of the node that has it

return redis.call('TIME')
