-- A page of a stream, of each entry only what is needed to know whose it is.
-- KEYS: the stream.
-- ARGV: after which entry, up to which, how many.
-- Answers {id, type, subject, role, stage, when it is to be delivered, event id} of each, with '' for what is missing.
local page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], ARGV[2], 'COUNT', ARGV[3])
for at, entry in ipairs(page) do page[at] = brief(entry) end
return page
