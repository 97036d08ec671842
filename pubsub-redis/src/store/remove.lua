-- Removes a run.
--
-- KEYS  record, lines, late lines
-- ARGV  newest format known; the record that was seen, or '' for whatever is there
--
-- Answers {'done'}, {'gone'}, {'newer', format}, or {'other'} where the record was changed meanwhile.

local is = redis.call('HMGET', KEYS[1], 'version', 'record')
if not is[1] then return {'gone'} end
if tonumber(is[1]) > tonumber(ARGV[1]) then return {'newer', is[1]} end
if ARGV[2] ~= '' and is[2] ~= ARGV[2] then return {'other'} end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
return {'done'}
