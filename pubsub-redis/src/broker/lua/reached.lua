-- What a stream has had so far, whether it is kept or not.
-- KEYS: the stream.
-- Answers {the id of the last entry, 0-0 for none; how many there were}.
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return { '0-0', 0 } end
return { field(info, 'last-generated-id') or '0-0', field(info, 'entries-added') or 0 }
