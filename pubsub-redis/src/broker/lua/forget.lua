-- Removes claims whose event is gone, and notes the others as touched.
-- KEYS: events, claims, touched, away.
-- ARGV: up to which ms they were touched, how many.
-- Answers how many were looked at.
local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local now = whole(now_ms())
for _, claim in ipairs(old) do
  local entry = string.match(claim, '^([^|]+)|')
  local is_kept = entry
    and (redis.call('HEXISTS', KEYS[4], entry) == 1 or #redis.call('XRANGE', KEYS[1], entry, entry) > 0)
  if is_kept then
    redis.call('ZADD', KEYS[3], now, claim)
  else
    redis.call('HDEL', KEYS[2], claim)
    redis.call('ZREM', KEYS[3], claim)
  end
end
return #old
