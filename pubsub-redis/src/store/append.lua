-- Appends lines of one run, in number order, and stops at the first refusal that is about more than one line.
--
-- KEYS  record, lines, late lines
-- ARGV  newest format known; bound in bytes (0: none); then for each batch how many lines, their time, stream and whether
--       they were recovered (0 or 1), and for each of them number, end and content
--
-- Answers {'gone'}, {'newer', format}, or {'done', numbers refused, numbers dropped}. The server looks at its memory
-- before the first write of a script, so an out-of-memory refusal is one of all lines.

local record = redis.call('HMGET', KEYS[1], 'version', 'status', 'bytes', 'dropped_through')
if not record[1] then return {'gone'} end
if tonumber(record[1]) > tonumber(ARGV[1]) then return {'newer', record[1]} end
local sealed = record[2] == 'completed'
local bound = tonumber(ARGV[2])
local bytes = tonumber(record[3] or '0')
local end_bytes = {lf = 1, crlf = 2, none = 0, part = 0}

-- Numbers have up to 64 bits, which Lua's do not: they are compared as text.
local function padded(number) return string.rep('0', 20 - #number) .. number end

local function is_there(number)
  local id = number .. '-0'
  if #redis.call('XRANGE', KEYS[2], id, id) > 0 then return true end
  local from = padded(number)
  return #redis.call('ZRANGEBYLEX', KEYS[3], '[' .. from .. ' ', '(' .. from .. '!', 'LIMIT', 0, 1) > 0
end

local function is_over(size) return sealed and bound > 0 and bytes + size > bound end

local function add(number, ending, content, time, stream, recovered)
  if ending == 'lf' and recovered == '0' then
    return redis.pcall('XADD', KEYS[2], number .. '-0', 'type', 'output', 'line_number', number, 'content', content,
      'timestamp', time, 'stream', stream)
  end
  return redis.pcall('XADD', KEYS[2], number .. '-0', 'type', 'output', 'line_number', number, 'content', content,
    'timestamp', time, 'stream', stream, 'end', ending, 'recovered', recovered)
end

local last, late, refused, dropped, failure = nil, 0, {}, {}, nil

-- The number is not larger than the last one, or there is no room.
local function take_late(number, ending, content, time, stream, recovered, size)
  if is_there(number) then return end
  if is_over(size) or padded(number) <= padded(record[4] or '0') then
    dropped[#dropped + 1] = number
  elseif sealed then
    local line = {padded(number), time, stream, ending, recovered, content}
    redis.call('ZADD', KEYS[3], 0, table.concat(line, ' '))
    late = late + 1
    bytes = bytes + size
  else
    refused[#refused + 1] = number
  end
end

local at = 3
while ARGV[at] and not failure do
  local count, time, stream, recovered = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  for _ = 1, count do
    local number, ending, content = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    at = at + 3
    local size = #content + end_bytes[ending]
    if is_over(size) then
      take_late(number, ending, content, time, stream, recovered, size)
    else
      local added = add(number, ending, content, time, stream, recovered)
      if type(added) == 'string' then
        last = number
        bytes = bytes + size
      elseif string.find(added.err, 'equal or smaller', 1, true) then
        take_late(number, ending, content, time, stream, recovered, size)
      else
        failure = added
        break
      end
    end
  end
end

-- The first lines go, so that the rest is within the bound; at most as many bytes as just came.
if bound > 0 and not sealed and bytes > bound then
  local gone, gone_bytes, through, from = 0, 0, nil, '-'
  while bytes > bound do
    local page = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 100)
    if #page == 0 then break end
    for _, entry in ipairs(page) do
      if bytes <= bound then break end
      local size, fields = 1, entry[2]
      for field = 1, #fields, 2 do
        if fields[field] == 'content' then size = size + #fields[field + 1] end
        if fields[field] == 'end' then size = size + end_bytes[fields[field + 1]] - 1 end
      end
      through = string.match(entry[1], '^%d+')
      from = '(' .. entry[1]
      gone, gone_bytes, bytes = gone + 1, gone_bytes + size, bytes - size
    end
  end
  if through then
    redis.call('XTRIM', KEYS[2], 'MINID', '=', through .. '-1')
    redis.call('HSET', KEYS[1], 'dropped_through', through)
    redis.call('HINCRBY', KEYS[1], 'dropped_bytes', gone_bytes)
  end
end
if last then redis.call('HSET', KEYS[1], 'bytes', bytes, 'last_line', last) end
if late > 0 then
  redis.call('HSET', KEYS[1], 'bytes', bytes)
  redis.call('HINCRBY', KEYS[1], 'late', late)
end
if sealed and (last or late > 0) then
  local ends = redis.call('PEXPIRETIME', KEYS[1])
  if ends > 0 then
    redis.call('PEXPIREAT', KEYS[2], ends)
    redis.call('PEXPIREAT', KEYS[3], ends)
  end
end
if failure then
  -- Only where a call is not caught, its line is told.
  if string.find(failure.err, "can't run this command", 1, true) then failure.err = failure.err .. " ('xadd')" end
  return failure
end
return {'done', refused, dropped}
