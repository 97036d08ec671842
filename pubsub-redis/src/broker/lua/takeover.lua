-- Takes over what was left by whoever held it. What was begun comes back later, each in its own time.
-- KEYS: events, again, due, held, claims, away.
-- ARGV: group, member, lease in ms, how many, stage or '', partition, a number of chance, and members that were not seen
-- for a lease.
-- Answers {entries of again, entries of events, entries without a body, 1 where there is more, ms until the next lease of
-- those members is over or '', ms until the next is due or ''}. An entry is {id, fields, deliveries}.
local group, member, lease, many = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local stage, partition = ARGV[5], ARGV[6]
math.randomseed(tonumber(ARGV[7]))
local AT_ONCE, MOST_JITTER = 200, 10000
local dropped, more, now = 0, 0, now_ms()

local function is_suspect(position, id, owner, count)
  if stage == '' then return false end
  local text = read_claim(KEYS[5], id .. '\n' .. stage)
  local open = text ~= '' and cjson.decode(text).open
  return type(open) == 'table' and open.group == group and open.entry == position and open.owner == owner
    and open.count == count
end

local function take_over(stream, kind)
  local taken = {}
  local left = redis.pcall('XPENDING', stream, group, 'IDLE', lease, '-', '+', AT_ONCE)
  -- As a table, so that its code is that of the answer.
  if left.err then error(left) end
  if #left >= AT_ONCE then more = 1 end
  for _, one in ipairs(left) do
    local id, owner = one[1], one[2]
    local found = redis.call('XRANGE', stream, id, id)[1]
    if not found then
      redis.call('XACK', stream, group, id)
      dropped = dropped + 1
    else
      local fields = found[2]
      local entry = field(fields, '_entry') or id
      local count = one[4] + tonumber(field(fields, '_count') or '0')
      if is_suspect(partition .. kind .. ':' .. id, field(fields, 'id') or '', owner, count) then
        -- No entry is called so. Who may not acknowledge is told before there is a copy.
        redis.call('XACK', stream, group, '0-0')
        put_off(KEYS[3], KEYS[4], kept(fields, entry, count), now + math.random(0, math.min(lease / 4, MOST_JITTER)))
        redis.call('XACK', stream, group, id)
        if kind == 'a' then
          redis.call('XDEL', stream, id)
        else
          redis.call('HINCRBY', KEYS[6], entry, 1)
        end
      elseif many > 0 then
        many = many - 1
        redis.call('XCLAIM', stream, group, member, 0, id)
        taken[#taken + 1] = { id, fields, one[4] + 1 }
      else
        more = 1
      end
    end
  end
  return taken
end
local again = take_over(KEYS[2], 'a')
local events = take_over(KEYS[1], '')

local wait
for at = 8, #ARGV do
  if ARGV[at] ~= member then
    for stream = 1, 2 do
      local held = redis.call('XPENDING', KEYS[stream], group, '-', '+', AT_ONCE, ARGV[at])
      for _, one in ipairs(held) do
        local over = math.max(lease - one[3], 1)
        if not wait or over < wait then wait = over end
      end
    end
  end
end
local next_due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
return { again, events, dropped, more, wait and whole(wait) or '', next_due and whole(next_due - now) or '' }
