-- Removes claims whose event is gone, and notes the others as touched.
-- KEYS: events, claims, touched, away.
-- ARGV: up to which ms they were touched; and for each its name and 1 where its event is known to be kept, otherwise 0.
-- Answers how many were removed.
local now, removed = whole(now_ms()), 0
for at = 2, #ARGV, 2 do
  local name = ARGV[at]
  local touched = redis.call('ZSCORE', KEYS[3], name)
  if touched and tonumber(touched) <= tonumber(ARGV[1]) then
    local _, entries = read_claim(KEYS[2], name)
    if ARGV[at + 1] == '1' or is_kept(entries, KEYS[1], KEYS[4]) then
      redis.call('ZADD', KEYS[3], now, name)
    else
      redis.call('HDEL', KEYS[2], name)
      redis.call('ZREM', KEYS[3], name)
      removed = removed + 1
    end
  end
end
return removed
