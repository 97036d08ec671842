-- Changes a claim, where the lease is the caller's and the claim is what the caller saw.
-- KEYS: the lease's stream, claims, touched, cancels, groups, ids, events, away, the stream of the open attempt's holder.
-- ARGV: group, member, id, deliveries, claim, what the caller saw of it ('' for nothing), what it is to be, action, the
-- entry it began as; and of the holder of the open attempt, where it counts: group ('' where it does not), id, owner, count.
-- Answers {outcome, the claim that stands, the entry up to which the action is cancelled or ''}; an outcome is 'done',
-- 'lost', 'other' (the claim is another), or 'held' (the holder's lease stands).
local group, member, id = ARGV[1], ARGV[2], ARGV[3]
local mark = redis.call('HGET', KEYS[4], ARGV[8]) or ''
local name, entry = ARGV[5], ARGV[9]
local text, entries = claim_of(KEYS[2], name, entry, KEYS[6], KEYS[7], KEYS[8])
local owner, count = pending(KEYS[1], group, id)
if owner ~= member or count ~= tonumber(ARGV[4]) then return { 'lost', text, mark } end
redis.call('XCLAIM', KEYS[1], group, member, 0, id, 'JUSTID')
if text ~= ARGV[6] then return { 'other', text, mark } end
local said, new = 'done', ARGV[7]
if ARGV[10] ~= '' then
  local noted = redis.call('HGET', KEYS[5], ARGV[10])
  local holder, deliveries, idle = pending(KEYS[9], ARGV[10], ARGV[11])
  if noted and holder == ARGV[12] and idle < cjson.decode(noted).lease_ms then
    local leased = redis.call('XRANGE', KEYS[9], ARGV[11], ARGV[11])[1]
    local before = leased and tonumber(field(leased[2], '_count') or '0') or 0
    if before + deliveries == tonumber(ARGV[13]) then said, new = 'held', text end
  end
end
if new ~= text or (text ~= '' and not is_noted(entries, entry)) then
  write_claim(KEYS[2], KEYS[3], name, new, entries, entry)
end
return { said, new, mark }
