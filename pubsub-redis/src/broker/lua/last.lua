-- The last entry that a stream has had, whether it is kept or not.
-- KEYS: the stream.
-- Answers its id, 0-0 for none.
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return '0-0' end
return field(info, 'last-generated-id') or '0-0'
