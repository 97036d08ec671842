-- How much of a group came back or is to come later in one partition.
-- KEYS: again, due.
-- ARGV: group.
-- Answers {the last entry of again that it read or '', how much of it is pending, due by now, due later}; '' also where
-- nothing is there that it has not read.
local last, pending_there, now = '', 0, now_ms()
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if not groups.err and groups[1] then
  last, pending_there = field(groups[1], 'last-delivered-id'), field(groups[1], 'pending')
  if redis.call('XLEN', KEYS[1]) <= pending_there then last = '' end
end
return {
  last, pending_there, redis.call('ZCOUNT', KEYS[2], '-inf', whole(now)),
  redis.call('ZCOUNT', KEYS[2], '(' .. whole(now), '+inf'),
}
