-- Settles a lease that is still its owner's, and closes its claim.
-- KEYS: the lease's stream, events, again, due, held, claims, touched, away, cancels, dead, ids.
-- ARGV: group, member, id, deliveries, how (ack, back, due, dead), ms from now (back) or of the clock (due), the entry it
-- began as, how often it was leased in all, partition, claim ('' for none), what the caller saw of it ('' where it does not
-- count), what it is to be, reason.
-- Answers {'done', ms until it is due or ''}, {'lost'}, or {'other', the claim that stands}.
local group, id, how, entry = ARGV[1], ARGV[3], ARGV[5], ARGV[7]
local owner, count = pending(KEYS[1], group, id)
if owner ~= ARGV[2] or count ~= tonumber(ARGV[4]) then return { 'lost' } end
local claim, entries = '', ''
if ARGV[10] ~= '' then claim, entries = claim_of(KEYS[6], ARGV[10], entry, KEYS[11], KEYS[2], KEYS[8]) end
if ARGV[11] ~= '' and claim ~= ARGV[11] then return { 'other', claim } end
-- No entry is called so. Who may not acknowledge is told before anything is written: a copy would be delivered at once.
redis.call('XACK', KEYS[1], group, '0-0')
local comes_from_again = KEYS[1] == KEYS[3]
-- Last: where a call before it fails, the event stays as it was.
local function over()
  if ARGV[11] ~= '' then
    write_claim(KEYS[6], KEYS[7], ARGV[10], ARGV[12], entries, entry)
  elseif claim ~= '' and not is_noted(entries, entry) then
    write_claim(KEYS[6], KEYS[7], ARGV[10], claim, entries, entry)
  end
  redis.call('XACK', KEYS[1], group, id)
  if comes_from_again then redis.call('XDEL', KEYS[1], id) end
end
local found = redis.call('XRANGE', KEYS[1], id, id)[1]
if not found then
  over()
  return { 'done', '' }
end
local fields, due = found[2], ''
local leaves = true
if how == 'back' or how == 'due' then
  leaves = false
  local copy = kept(fields, entry, tonumber(ARGV[8]))
  local mark = redis.call('HGET', KEYS[9], field(fields, 'subject') or '')
  local at = tonumber(ARGV[6])
  local now = now_ms()
  if how == 'back' and at > 0 then at = at + now end
  -- What is cancelled is concluded at once, not when its time has come.
  if at <= now or covered(fields, entry, ARGV[9], mark) then
    redis.call('XADD', KEYS[3], '*', unpack(copy))
  else
    due = whole(at - now)
    put_off(KEYS[4], KEYS[5], copy, at)
  end
  if not comes_from_again then redis.call('HINCRBY', KEYS[8], entry, 1) end
elseif how == 'dead' then
  local known = claim ~= '' and cjson.decode(claim) or {}
  local time = redis.call('TIME')
  local letter = {
    '_id', field(fields, 'id') or '', '_group', group, '_reason', ARGV[13],
    '_attempts', whole(known.attempts or 0), '_crashes', whole(known.crashes or 0),
    '_time', whole(time[1] * 1000000 + time[2]),
  }
  for at = 1, #fields, 2 do
    if fields[at] ~= '_entry' and fields[at] ~= '_count' then
      letter[#letter + 1] = fields[at]
      letter[#letter + 1] = fields[at + 1]
    end
  end
  redis.call('XADD', KEYS[10], '*', unpack(letter))
end
over()
if leaves and comes_from_again and redis.call('HINCRBY', KEYS[8], entry, -1) <= 0 then
  redis.call('HDEL', KEYS[8], entry)
  local name = field(fields, 'id')
  -- Its id is known as long as the event is kept, here or away.
  if name and redis.call('HGET', KEYS[11], name) == entry and #redis.call('XRANGE', KEYS[2], entry, entry) == 0 then
    redis.call('HDEL', KEYS[11], name)
  end
end
return { 'done', due }
