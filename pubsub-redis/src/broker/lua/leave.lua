-- A member leaves; it is forgotten where it holds nothing.
-- KEYS: events, again, members, used.
-- ARGV: group, member, what becomes of its note at the group's home: 'left', 'gone', or '' elsewhere.
-- Answers how many of its entries are pending here, at most 2.
local group, member = ARGV[1], ARGV[2]
if ARGV[3] == 'left' then
  -- Seen never: others look for what it leaves.
  if redis.call('ZSCORE', KEYS[3], member) then redis.call('ZADD', KEYS[3], 0, member) end
  if redis.call('ZSCORE', KEYS[4], group) then redis.call('ZADD', KEYS[4], whole(now_ms()), group) end
elseif ARGV[3] == 'gone' then
  redis.call('ZREM', KEYS[3], member)
end
local left = 0
for stream = 1, 2 do
  local held = redis.pcall('XPENDING', KEYS[stream], group, '-', '+', 1, member)
  if not held.err then
    if #held == 0 then
      redis.pcall('XGROUP', 'DELCONSUMER', KEYS[stream], group, member)
    else
      left = left + 1
    end
  end
end
return left
