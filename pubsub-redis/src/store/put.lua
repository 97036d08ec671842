-- Writes the record of a run where it is still the one that its writer saw.
--
-- KEYS  record, lines, late lines
-- ARGV  newest format known; the record that was seen ('' for none); the new one; a name for the run if it is made now;
--       for how many ms it stays from now (0: for good); then further fields and their values
--
-- Answers {'done'}, {'newer', format}, or {'other'} where somebody else was faster.

local is = redis.call('HMGET', KEYS[1], 'version', 'record')
if is[1] and tonumber(is[1]) > tonumber(ARGV[1]) then return {'newer', is[1]} end
if (is[2] or '') ~= ARGV[2] then return {'other'} end
-- First of all writes, for it is the one that the server refuses where memory is out.
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'record', ARGV[3], unpack(ARGV, 6))
if not is[2] then
  redis.call('HSET', KEYS[1], 'made', ARGV[4])
  redis.call('UNLINK', KEYS[2], KEYS[3])
end
local stays = tonumber(ARGV[5])
if stays > 0 then
  local now = redis.call('TIME')
  -- One instant for all of them.
  local ends = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + stays)
  for _, key in ipairs(KEYS) do redis.call('PEXPIREAT', key, ends) end
end
return {'done'}
