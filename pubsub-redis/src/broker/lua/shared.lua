-- What scripts of the broker share; it is put in front of each.

-- The server's clock in milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A whole number as text: Lua's own form of large ones has an exponent.
local function whole(number)
  return string.format('%.0f', number)
end

-- The text of a field of an entry, or nil.
local function field(fields, name)
  for at = 1, #fields, 2 do
    if fields[at] == name then return fields[at + 1] end
  end
  return nil
end

-- Of an entry {id, fields} what is needed to know whose it is, with '' for what is missing.
local function brief(entry)
  local of = { entry[1] }
  for _, name in ipairs({ 'type', 'subject', 'pipelinerole', 'pipelinestage', 'pipelinedeliverat', 'id' }) do
    of[#of + 1] = field(entry[2], name) or ''
  end
  return of
end

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

-- Whether the entry id `a` is at most `b`.
local function at_most(a, b)
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  if not a_ms or not b_ms then return false end
  return a_ms < b_ms or (a_ms == b_ms and a_seq <= b_seq)
end

-- Owner, deliveries and idle milliseconds of a pending entry; nothing where it is not pending or there is no group.
local function pending(stream, group, id)
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if found.err or #found == 0 then return nil end
  return found[1][2], found[1][4], found[1][3]
end

-- Whether a mark covers an entry: the chain of events that it is of began no later.
local function covered(fields, entry, partition, mark)
  if not mark then return false end
  local root = entry
  local position = field(fields, 'pipelinerootposition')
  if position and not field(fields, 'pipelinereplayof') then
    local of, id = string.match(position, '^(%d+):(%d+%-%d+)$')
    if of == partition then root = id end
  end
  return at_most(root, mark)
end

-- The fields of an entry as its group keeps them: with the entry it began as and how often it was leased so far.
local function kept(fields, entry, count)
  local copy = {}
  for at = 1, #fields, 2 do
    if fields[at] ~= '_entry' and fields[at] ~= '_count' then
      copy[#copy + 1] = fields[at]
      copy[#copy + 1] = fields[at + 1]
    end
  end
  copy[#copy + 1] = '_entry'
  copy[#copy + 1] = entry
  copy[#copy + 1] = '_count'
  copy[#copy + 1] = whole(count)
  return copy
end

-- The claim that is kept of an event's stage, and the entries that it was begun at; '' for nothing.
local function read_claim(claims, name)
  local entries, text = string.match(redis.call('HGET', claims, name) or '', '^([^\n]*)\n(.*)$')
  return text or '', entries or ''
end

local function is_noted(entries, entry)
  return string.find(' ' .. entries .. ' ', ' ' .. entry .. ' ', 1, true) ~= nil
end

-- Whether one of these entries is kept, here or away.
local function is_kept(entries, events, away)
  for entry in string.gmatch(entries, '%S+') do
    if redis.call('HEXISTS', away, entry) == 1 or #redis.call('XRANGE', events, entry, entry) > 0 then return true end
  end
  return false
end

-- The same for an entry: an id that somebody chose again, once its event was gone, is another event's.
local function claim_of(claims, name, entry, ids, events, away)
  local text, entries = read_claim(claims, name)
  if text ~= '' and not is_noted(entries, entry)
    and redis.call('HGET', ids, string.match(name, '^[^\n]*')) == entry and not is_kept(entries, events, away) then
    return '', ''
  end
  return text, entries
end

-- Keeps a claim, and that it is this entry's as well.
local MOST_NOTED = 16
local function write_claim(claims, touched, name, text, entries, entry)
  if not is_noted(entries, entry) then
    local noted = { entry }
    for other in string.gmatch(entries, '%S+') do
      if #noted < MOST_NOTED then noted[#noted + 1] = other end
    end
    entries = table.concat(noted, ' ')
  end
  redis.call('HSET', claims, name, entries .. '\n' .. text)
  redis.call('ZADD', touched, whole(now_ms()), name)
end

-- What failed for want of a right, with its name. None of these calls changes anything.
local function named(failure)
  if type(failure) ~= 'table' then failure = { err = 'ERR ' .. tostring(failure) } end
  local function is_denied(told)
    local text = type(told) == 'table' and told.err or ''
    return string.find(text, 'user executing the script', 1, true) or string.find(text, 'NOPERM', 1, true)
  end
  if not is_denied(failure) then return failure end
  for _, call in ipairs({
    { 'XADD', '0-0', 'a', 'b' }, { 'XDEL', '0-0' }, { 'XACK', 'a', '0-0' }, { 'XCLAIM', 'a', 'b', 'c', '0-0' },
    { 'HSET', 'a', 'b', 'c' }, { 'HINCRBY', 'a', 'b' }, { 'ZADD', 'a', 'b' },
  }) do
    table.insert(call, 2, KEYS[1])
    if is_denied(redis.pcall(unpack(call))) then
      return { err = failure.err .. " ('" .. string.lower(call[1]) .. "')" }
    end
  end
  return failure
end

-- Does what is to be done as a whole. Where a step fails, those before it are undone, the last first, as far as they have
-- said how: a copy of an event beside what is there would be delivered as well. Answers the failure.
local function failed(steps)
  local undo = {}
  local done, failure = pcall(steps, undo)
  if done then return nil end
  for at = #undo, 1, -1 do redis.pcall(unpack(undo[at])) end
  return named(failure)
end

-- Puts an entry on its group's due list.
local function put_off(due, held, fields, at, undo)
  local member = redis.sha1hex(table.concat(fields, '\0')) .. whole(at)
  redis.call('HSET', held, member, cjson.encode(fields))
  undo[#undo + 1] = { 'HDEL', held, member }
  redis.call('ZADD', due, whole(at), member)
  undo[#undo + 1] = { 'ZREM', due, member }
end

-- Counts an event that is away from `events` with its group.
local function goes_away(away, entry, undo)
  local is_first = redis.call('HINCRBY', away, entry, 1) == 1
  undo[#undo + 1] = is_first and { 'HDEL', away, entry } or { 'HINCRBY', away, entry, -1 }
end
