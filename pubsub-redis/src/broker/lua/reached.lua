-- What the events of a partition were so far, whether they are kept or not.
-- KEYS: events, blanks.
-- Answers {the id of the last entry, 0-0 for none; how many events there were}.
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return { '0-0', 0 } end
local blanks = tonumber(redis.call('GET', KEYS[2]) or '0')
return { field(info, 'last-generated-id') or '0-0', (field(info, 'entries-added') or 0) - blanks }
