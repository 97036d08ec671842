-- A page of what of a stream is pending for a group, of each entry only what is needed to know whose it is.
-- KEYS: the stream.
-- ARGV: group, after which entry, how many.
-- Answers {id, type, subject, role, stage, when it is to be delivered, event id} of each, with '' for what is missing.
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[2], '+', ARGV[3])
if held.err then return {} end
local page = {}
for at, one in ipairs(held) do
  page[at] = brief(redis.call('XRANGE', KEYS[1], one[1], one[1])[1] or { one[1], {} })
end
return page
