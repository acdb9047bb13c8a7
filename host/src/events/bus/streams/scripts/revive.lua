#!lua
-- Delivers dead letters to their groups once more: all of them, or none. Answers how many there were.
-- KEYS: dead letters, for each letter the stream of its group…
-- ARGV: for each letter its id and its group…
local revived = 0
for at = 2, #KEYS do
  local id, group = ARGV[2 * at - 3], ARGV[2 * at - 2]
  local letter = redis.call('XRANGE', KEYS[1], id, id)[1]
  if letter then
    local fields = {}
    for field = 1, #letter[2], 2 do
      local name = letter[2][field]
      -- From now on it is a revived letter, and no part of a replay.
      if string.sub(name, 1, 5) ~= 'dead-' and name ~= 'replayed' then
        fields[#fields + 1] = name
        fields[#fields + 1] = letter[2][field + 1]
      end
    end
    if #fields == 0 then fields = { 'data', '' } end
    redis.pcall('XGROUP', 'CREATE', KEYS[at], group, 0, 'MKSTREAM')
    redis.call('XADD', KEYS[at], '*', unpack(fields))
    redis.call('XDEL', KEYS[1], id)
    revived = revived + 1
  end
end
return revived
