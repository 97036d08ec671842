-- Whether a group had no member for long enough.
-- KEYS: members, used at the group's home.
-- ARGV: group, the ms up to which it may have been used, ms in which a member that was not seen does not count.
-- Answers 1 where it had none, otherwise 0.
local last = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or 0)
local used = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or 0)
local has_member = last >= now_ms() - tonumber(ARGV[3])
return (not has_member and math.max(last, used) <= tonumber(ARGV[2])) and 1 or 0
