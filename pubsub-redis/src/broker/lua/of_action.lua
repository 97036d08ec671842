-- How much of an action a group has pending, back and put off in one partition.
-- KEYS: events, again, due, held.
-- ARGV: group, action.
-- Answers {pending, back or due by now, due later}.
local PAGE = 500
local leased = 0
for stream = 1, 2 do
  local from = '-'
  repeat
    local held = redis.pcall('XPENDING', KEYS[stream], ARGV[1], from, '+', PAGE)
    if held.err then break end
    for _, one in ipairs(held) do
      local found = redis.call('XRANGE', KEYS[stream], one[1], one[1])[1]
      if found and field(found[2], 'subject') == ARGV[2] then leased = leased + 1 end
      from = '(' .. one[1]
    end
  until #held < PAGE
end
local now, ready, later = now_ms(), 0, 0
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[2])
if not groups.err and groups[1] then
  local unread = redis.call('XRANGE', KEYS[2], '(' .. field(groups[1], 'last-delivered-id'), '+')
  for _, entry in ipairs(unread) do
    if field(entry[2], 'subject') == ARGV[2] then ready = ready + 1 end
  end
end
local items = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
for at = 1, #items, 2 do
  local text = redis.call('HGET', KEYS[4], items[at])
  if text and field(cjson.decode(text), 'subject') == ARGV[2] then
    if tonumber(items[at + 1]) > now then later = later + 1 else ready = ready + 1 end
  end
end
return { leased, ready, later }
