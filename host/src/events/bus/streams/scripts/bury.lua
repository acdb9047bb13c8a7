#!lua flags=allow-oom
-- Makes an entry a dead letter, and settles it by that; nothing, where it is settled already.
-- KEYS: stream, dead letters
-- ARGV: group, id, whether the stream is this group's alone, how many arguments the letter has, those of the letter…, those
--       of the event for the case that the stream has lost it…
local function sub(from, to)
  local part = {}
  for at = from, to do part[#part + 1] = ARGV[at] end
  return part
end
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
local letter = sub(5, 4 + ARGV[4])
local fields = entry and entry[2] or sub(5 + ARGV[4], #ARGV)
-- What others have written may have any number of fields; the stack of Lua has not.
for at = 1, math.min(#fields, 1000) do letter[#letter + 1] = fields[at] end
redis.call('XADD', KEYS[2], '*', unpack(letter))
if ARGV[3] == '1' then redis.call('XDEL', KEYS[1], ARGV[2]) end
return 1
