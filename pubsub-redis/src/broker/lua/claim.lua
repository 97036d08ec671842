-- Changes a claim, where the lease is the caller's and the claim is what the caller saw.
-- KEYS: the lease's stream, claims, touched, cancels, groups, the stream of the open attempt's holder.
-- ARGV: group, member, id, deliveries, claim, what the caller saw of it ('' for nothing), what it is to be, action; and of
-- the holder of the open attempt, where it counts: group ('' where it does not), id, owner, count.
-- Answers {outcome, the claim that stands, the entry up to which the action is cancelled or ''}; an outcome is 'done',
-- 'lost', 'other' (the claim is another), or 'held' (the holder's lease stands).
local group, member, id = ARGV[1], ARGV[2], ARGV[3]
local mark = redis.call('HGET', KEYS[4], ARGV[8]) or ''
local text = redis.call('HGET', KEYS[2], ARGV[5]) or ''
local owner, count = pending(KEYS[1], group, id)
if owner ~= member or count ~= tonumber(ARGV[4]) then return { 'lost', text, mark } end
redis.call('XCLAIM', KEYS[1], group, member, 0, id, 'JUSTID')
if text ~= ARGV[6] then return { 'other', text, mark } end
if ARGV[9] ~= '' then
  local noted = redis.call('HGET', KEYS[5], ARGV[9])
  local holder, deliveries, idle = pending(KEYS[6], ARGV[9], ARGV[10])
  if noted and holder == ARGV[11] and idle < cjson.decode(noted).lease_ms then
    local entry = redis.call('XRANGE', KEYS[6], ARGV[10], ARGV[10])[1]
    local before = entry and tonumber(field(entry[2], '_count') or '0') or 0
    if before + deliveries == tonumber(ARGV[12]) then return { 'held', text, mark } end
  end
end
if ARGV[7] ~= text then
  redis.call('HSET', KEYS[2], ARGV[5], ARGV[7])
  redis.call('ZADD', KEYS[3], whole(now_ms()), ARGV[5])
end
return { 'done', ARGV[7], mark }
