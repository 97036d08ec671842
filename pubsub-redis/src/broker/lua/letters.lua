-- The dead letters with an id.
-- KEYS: dead.
-- ARGV: id, after which entry, how many are looked at.
-- Answers {the last entry that was looked at or '', {entry, group} of each that has the id}.
local page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3])
local found = {}
for _, entry in ipairs(page) do
  if field(entry[2], '_id') == ARGV[1] then found[#found + 1] = { entry[1], field(entry[2], '_group') or '' } end
end
return { #page > 0 and page[#page][1] or '', found }
