-- How many members a group has.
-- KEYS: members at the group's home.
-- ARGV: ms in which a member that was not seen does not count.
-- Answers their number.
return redis.call('ZCOUNT', KEYS[1], whole(now_ms() - tonumber(ARGV[1])), '+inf')
