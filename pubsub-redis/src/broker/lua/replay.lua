-- Makes a new event of a dead letter, for its group alone.
-- KEYS: dead, events, again, groups, away, blanks.
-- ARGV: the letter's entry, group, the new event's fields.
-- Answers 1, or 0 where the letter or the group is gone.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
if redis.call('HEXISTS', KEYS[4], ARGV[2]) == 0 then return 0 end
-- An entry id of its own, in the order of all events, so that cancels reach it as they reach others.
local entry = redis.call('XADD', KEYS[2], '*', '_', '')
redis.call('XDEL', KEYS[2], entry)
redis.call('INCR', KEYS[6])
local fields = {}
for at = 3, #ARGV do fields[#fields + 1] = ARGV[at] end
local failure = failed(function(undo)
  goes_away(KEYS[5], entry, undo)
  undo[#undo + 1] = { 'XDEL', KEYS[3], redis.call('XADD', KEYS[3], '*', unpack(kept(fields, entry, 0))) }
  redis.call('XDEL', KEYS[1], ARGV[1])
end)
if failure then error(failure) end
return 1
