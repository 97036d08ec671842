-- Makes a dead letter, of no group, of an entry that cannot be decoded; once, whoever comes first.
-- KEYS: events, dead, ids.
-- ARGV: entry, reason, what it is called.
-- Answers 1 where it was still there, otherwise 0.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
local time = redis.call('TIME')
local letter = {
  '_id', ARGV[3], '_group', '', '_reason', ARGV[2], '_attempts', '0', '_crashes', '0',
  '_time', whole(time[1] * 1000000 + time[2]),
}
for _, part in ipairs(found[2]) do letter[#letter + 1] = part end
-- No entry is called so. Who may not remove it is told before there is a letter.
redis.call('XDEL', KEYS[1], '0-0')
redis.call('XADD', KEYS[2], '*', unpack(letter))
redis.call('XDEL', KEYS[1], ARGV[1])
if redis.call('HGET', KEYS[3], ARGV[3]) == ARGV[1] then redis.call('HDEL', KEYS[3], ARGV[3]) end
return 1
