-- Notes that a member is there.
-- KEYS: members at the group's home.
-- ARGV: group, member.
-- Answers ms since the member was seen that was seen longest ago.
local now = now_ms()
redis.call('ZADD', KEYS[1], whole(now), ARGV[2])
return whole(now - redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
