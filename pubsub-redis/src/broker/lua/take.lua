-- Brings back what is due, and leases what is ready: what came back, then what is new.
-- KEYS: events, again, due, held.
-- ARGV: group, member, how many, and for each pattern six words: for its type and for its action '=', the name, '' where it
-- is a name, otherwise '~', how what matches begins, how it ends. What cannot match is passed over here, and whoever asks
-- decides about the rest; without patterns nothing is passed over.
-- Answers {entries of again, entries of events, ms until the next is due or '', 1 where there is more, how many were passed
-- over}. An entry is {id, fields}.
local group, member, many = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = now_ms()

local DUE_AT_ONCE = 100
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(now), 'LIMIT', 0, DUE_AT_ONCE)
if #due > 0 then
  -- Nothing is called so. Who may not remove them is told before there is a copy.
  redis.call('HDEL', KEYS[4], '')
  redis.call('ZREM', KEYS[3], '')
end
for _, item in ipairs(due) do
  local fields = redis.call('HGET', KEYS[4], item)
  if fields then redis.call('XADD', KEYS[2], '*', unpack(cjson.decode(fields))) end
  redis.call('HDEL', KEYS[4], item)
  redis.call('ZREM', KEYS[3], item)
end
local next_due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]

local function read(stream, count)
  local streams = redis.call('XREADGROUP', 'GROUP', group, member, 'COUNT', count, 'STREAMS', stream, '>')
  return streams and streams[1] and streams[1][2] or {}
end

local function fits(at, text)
  if ARGV[at] == '=' then return text == ARGV[at + 1] end
  local from, to = ARGV[at + 1], ARGV[at + 2]
  return string.sub(text, 1, #from) == from and (to == '' or string.sub(text, -#to) == to)
end

local FIRST_PATTERN, PATTERN = 4, 6
local function can_match(fields)
  local kind, subject = field(fields, 'type'), field(fields, 'subject')
  -- What says neither is damaged: whoever asks sets it aside.
  if not kind or not subject then return true end
  for at = FIRST_PATTERN, #ARGV, PATTERN do
    if fits(at, kind) and fits(at + 3, subject) then return true end
  end
  return false
end

-- Reads past what cannot match, without leaving it pending.
local FIRST_PAGE, MOST_IN_PAGE, PAGES, PAGE_BYTES = 16, 256, 4, 262144
local passed = 0
local function read_matching(stream, count)
  local taken, page = {}, math.max(FIRST_PAGE, math.min(count, MOST_IN_PAGE))
  for _ = 1, PAGES do
    local streams =
      redis.call('XREADGROUP', 'GROUP', group, member, 'COUNT', page, 'NOACK', 'STREAMS', stream, '>')
    local entries = streams and streams[1] and streams[1][2] or {}
    local bytes = 0
    for at, entry in ipairs(entries) do
      if can_match(entry[2]) then
        redis.call('XCLAIM', stream, group, member, 0, entry[1], 'RETRYCOUNT', 1, 'FORCE', 'JUSTID')
        taken[#taken + 1] = entry
        if #taken >= count then
          if at < #entries then redis.call('XGROUP', 'SETID', stream, group, entry[1]) end
          return taken, 1
        end
      else
        passed = passed + 1
      end
      bytes = bytes + #(field(entry[2], 'data') or '')
    end
    if #entries < page then return taken, 0 end
    if bytes < PAGE_BYTES then page = math.min(page * 2, MOST_IN_PAGE) end
  end
  return taken, 1
end

local again, events, more = {}, {}, #due >= DUE_AT_ONCE and 1 or 0
if many > 0 then
  again = read(KEYS[2], many)
  local left = many - #again
  if left > 0 then
    if #ARGV >= FIRST_PATTERN then
      local behind
      events, behind = read_matching(KEYS[1], left)
      more = math.max(more, behind)
    else
      events = read(KEYS[1], left)
    end
  end
end
return { again, events, next_due and whole(next_due - now) or '', more, passed }
