-- Drops what a group has in one partition.
-- KEYS: events, again, due, held, members, groups, used, away.
-- ARGV: group, the ms up to which it may have been used ('' where that does not count), ms in which a member that was not
-- seen does not count.
-- Answers 1, or 0 where it has a member or was used later.
local group = ARGV[1]
if ARGV[2] ~= '' then
  local last = tonumber(redis.call('ZRANGE', KEYS[5], -1, -1, 'WITHSCORES')[2] or 0)
  local used = tonumber(redis.call('ZSCORE', KEYS[7], group) or 0)
  if last >= now_ms() - tonumber(ARGV[3]) or math.max(last, used) > tonumber(ARGV[2]) then return 0 end
end
local function comes_home(entry)
  if entry and redis.call('HINCRBY', KEYS[8], entry, -1) <= 0 then redis.call('HDEL', KEYS[8], entry) end
end
for _, text in ipairs(redis.call('HVALS', KEYS[4])) do comes_home(field(cjson.decode(text), '_entry')) end
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do comes_home(field(entry[2], '_entry')) end
redis.pcall('XGROUP', 'DESTROY', KEYS[1], group)
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('HDEL', KEYS[6], group)
redis.call('ZREM', KEYS[7], group)
return 1
