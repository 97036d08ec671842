-- Notes a group, or answers what is noted of it.
-- KEYS: groups, used at the group's home.
-- ARGV: group, lease in ms, stage as JSON, patterns as JSON, start as JSON, when it was made or ''.
-- Answers the JSON that stands now.
local made = ARGV[6] ~= '' and ARGV[6] or whole(now_ms())
local text = '{"lease_ms":' .. ARGV[2] .. ',"stage":' .. ARGV[3] .. ',"patterns":' .. ARGV[4]
  .. ',"start":' .. ARGV[5] .. ',"made_ms":' .. made .. '}'
redis.call('HSETNX', KEYS[1], ARGV[1], text)
redis.call('ZADD', KEYS[2], whole(now_ms()), ARGV[1])
return redis.call('HGET', KEYS[1], ARGV[1])
