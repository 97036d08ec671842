-- A page of a stream, of each entry only what is needed to know whose it is.
-- KEYS: the stream.
-- ARGV: after which entry, how many.
-- Answers {id, type, subject, role, stage, when it is to be delivered, event id} of each, with '' for what is missing.
local page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
local NAMES = { 'type', 'subject', 'pipelinerole', 'pipelinestage', 'pipelinedeliverat', 'id' }
for at, entry in ipairs(page) do
  local brief = { entry[1] }
  for _, name in ipairs(NAMES) do brief[#brief + 1] = field(entry[2], name) or '' end
  page[at] = brief
end
return page
