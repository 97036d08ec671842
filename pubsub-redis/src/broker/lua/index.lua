-- Indexes actions whose first event is not known any more: from the beginning of what is kept.
-- KEYS: first.
-- ARGV: the actions.
-- Answers how many were not in the index.
local added = 0
for _, action in ipairs(ARGV) do added = added + redis.call('HSETNX', KEYS[1], action, '0-0') end
return added
