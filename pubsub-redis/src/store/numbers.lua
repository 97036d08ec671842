-- The numbers of lines, without the lines: from one number on, or backwards.
--
-- KEYS  lines
-- ARGV  XRANGE or XREVRANGE, where to start, where to end, at most how many

local numbers = {}
for index, entry in ipairs(redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])) do
  numbers[index] = string.match(entry[1], '^%d+')
end
return numbers
