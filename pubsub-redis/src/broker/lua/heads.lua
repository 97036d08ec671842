-- Where groups are in the events of one partition.
-- KEYS: events.
-- ARGV: a group, or '' for all.
-- Answers {group, the last entry that it read, how much is pending} of each.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return {} end
local heads = {}
for _, group in ipairs(groups) do
  local name = field(group, 'name')
  if ARGV[1] == '' or ARGV[1] == name then
    heads[#heads + 1] = { name, field(group, 'last-delivered-id'), field(group, 'pending') }
  end
end
return heads
