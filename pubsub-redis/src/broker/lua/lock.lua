-- Locks a partition for whoever looks for what is old.
-- KEYS: upkeep.
-- ARGV: for how many ms.
-- Answers 1 where it was not locked yet, otherwise 0.
return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) and 1 or 0
