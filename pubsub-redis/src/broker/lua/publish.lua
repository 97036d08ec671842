-- Publishes one event, unless its id is known or there is no room.
-- KEYS: events, ids, first.
-- ARGV: its id where ids are looked up, otherwise ''; its action; the most bytes that events may take, or 0; the bytes that
-- it takes; what may become the token of the index; its fields.
-- Answers {'new', entry, token}, {'known', entry, ''} or {'full', bytes that events take, ''}.
local id, most = ARGV[1], tonumber(ARGV[3])
if id ~= '' then
  local known = redis.call('HGET', KEYS[2], id)
  if known then return { 'known', known, '' } end
end
if most > 0 then
  local used = redis.call('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 5) or 0
  if used + tonumber(ARGV[4]) > most then return { 'full', used, '' } end
end
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 6))
if id ~= '' then redis.call('HSET', KEYS[2], id, entry) end
local ms, seq = string.match(entry, '^(%d+)%-(%d+)$')
local before = seq ~= '0' and ms .. '-' .. whole(tonumber(seq) - 1)
  or whole(tonumber(ms) - 1) .. '-18446744073709551615'
redis.call('HSETNX', KEYS[3], ARGV[2], before)
-- No action has an empty name.
redis.call('HSETNX', KEYS[3], '', ARGV[5])
return { 'new', entry, redis.call('HGET', KEYS[3], '') }
