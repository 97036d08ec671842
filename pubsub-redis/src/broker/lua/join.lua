-- Makes a group in one partition, where it is not there yet.
-- KEYS: events, again, groups, first.
-- ARGV: group, what is noted of the group, start, and the actions of this partition that the group is for. A start is 'first' (at the first event of these actions), 'new' and the ms after
-- which events count (made:ms), or an entry id.
-- Answers 1 where it was made, otherwise 0.
local group, start = ARGV[1], ARGV[3]
redis.call('HSETNX', KEYS[3], group, ARGV[2])
if start == 'first' then
  start = '$'
  for at = 4, #ARGV do
    local id = redis.call('HGET', KEYS[4], ARGV[at])
    if id and (start == '$' or at_most(id, start)) then start = id end
  end
elseif string.sub(start, 1, 5) == 'made:' then
  local made = tonumber(string.sub(start, 6))
  local later = redis.call('XRANGE', KEYS[1], whole(made + 1), '+', 'COUNT', 1)
  start = #later > 0 and whole(made) .. '-18446744073709551615' or '$'
end
local function make(stream, from)
  local made = redis.pcall('XGROUP', 'CREATE', stream, group, from, 'MKSTREAM')
  if made.err then
    if string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then error(made) end
    return 0
  end
  return 1
end
make(KEYS[2], '0')
return make(KEYS[1], start)
