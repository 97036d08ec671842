-- Marks an action up to now, and hurries what of it is to come later.
-- KEYS: events, cancels, and for each group of the partition: again, due, held.
-- ARGV: action, partition.
-- Answers the entry up to which it reaches.
local last = '0-0'
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if not info.err then last = field(info, 'last-generated-id') or last end
local mark = redis.call('HGET', KEYS[2], ARGV[1])
if mark and at_most(last, mark) then last = mark end
redis.call('HSET', KEYS[2], ARGV[1], last)
for at = 3, #KEYS, 3 do
  for _, item in ipairs(redis.call('ZRANGE', KEYS[at + 1], 0, -1)) do
    local text = redis.call('HGET', KEYS[at + 2], item)
    local fields = text and cjson.decode(text) or {}
    if field(fields, 'subject') == ARGV[1] and covered(fields, field(fields, '_entry'), ARGV[2], last) then
      redis.call('XADD', KEYS[at], '*', unpack(fields))
      redis.call('HDEL', KEYS[at + 2], item)
      redis.call('ZREM', KEYS[at + 1], item)
    end
  end
end
return last
