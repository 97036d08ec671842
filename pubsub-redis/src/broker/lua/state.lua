-- Where a group is in one partition.
-- KEYS: events, again, due, members.
-- ARGV: group, ms in which a member that was not seen does not count.
-- Answers {last entry of events that it read, last of again, pending of events, pending of again, due by now, due later,
-- members}; the last entries are '' where there is no such group.
local function last(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then return '', 0 end
  for _, group in ipairs(groups) do
    if field(group, 'name') == ARGV[1] then return field(group, 'last-delivered-id'), field(group, 'pending') end
  end
  return '', 0
end
local now = now_ms()
local events, pending_events = last(KEYS[1])
local again, pending_again = last(KEYS[2])
return {
  events, again, pending_events, pending_again,
  redis.call('ZCOUNT', KEYS[3], '-inf', whole(now)),
  redis.call('ZCOUNT', KEYS[3], '(' .. whole(now), '+inf'),
  redis.call('ZCOUNT', KEYS[4], whole(now - tonumber(ARGV[2])), '+inf'),
}
