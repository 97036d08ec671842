-- Removes events that every group has settled.
-- KEYS: events, ids, away, groups.
-- ARGV: how many groups the partition has, and for each event: entry, event id.
-- Answers how many were removed, or -1 where there are more or fewer groups by now.
if redis.call('HLEN', KEYS[4]) ~= tonumber(ARGV[1]) then return -1 end
local removed = 0
for at = 2, #ARGV, 2 do
  local entry, id = ARGV[at], ARGV[at + 1]
  removed = removed + redis.call('XDEL', KEYS[1], entry)
  -- Its id is known as long as a group has it among what came back or is to come later.
  if redis.call('HEXISTS', KEYS[3], entry) == 0 and redis.call('HGET', KEYS[2], id) == entry then
    redis.call('HDEL', KEYS[2], id)
  end
end
return removed
