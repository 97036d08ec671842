-- Renews leases that are still their owner's.
-- KEYS: events, again, cancels.
-- ARGV: group, member, and for each lease: 'e' or 'a' (of events or again), id,
-- deliveries, action.
-- Answers for each {1 where it is held, otherwise 0; the entry up to which its action is cancelled or ''}.
local group, member = ARGV[1], ARGV[2]
local answers = {}
for at = 3, #ARGV, 4 do
  local stream = ARGV[at] == 'e' and KEYS[1] or KEYS[2]
  local owner, count = pending(stream, group, ARGV[at + 1])
  if owner == member and count == tonumber(ARGV[at + 2]) then
    redis.call('XCLAIM', stream, group, member, 0, ARGV[at + 1], 'JUSTID')
    answers[#answers + 1] = { 1, redis.call('HGET', KEYS[3], ARGV[at + 3]) or '' }
  else
    answers[#answers + 1] = { 0, '' }
  end
end
return answers
