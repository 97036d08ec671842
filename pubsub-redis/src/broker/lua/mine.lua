-- What is pending for a member, as after an answer that was lost.
-- KEYS: events, again.
-- ARGV: group, member, how many.
-- Answers {entries of again, entries of events}; an entry is {id, fields, deliveries}.
local function mine(stream)
  local entries = {}
  local held = redis.pcall('XPENDING', stream, ARGV[1], '-', '+', ARGV[3], ARGV[2])
  if held.err then return entries end
  for _, one in ipairs(held) do
    local found = redis.call('XRANGE', stream, one[1], one[1])[1]
    if found then
      entries[#entries + 1] = { one[1], found[2], one[4] }
    else
      redis.call('XACK', stream, ARGV[1], one[1])
    end
  end
  return entries
end
local again = mine(KEYS[2])
return { again, mine(KEYS[1]) }
