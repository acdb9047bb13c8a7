#!lua
-- Publishes an event of a schedule, unless one was for this time or a later one. Answers whether it did, and again so
-- when it is asked again with the same event.
-- KEYS: when schedules fired, stream
-- ARGV: topic, time in ms, event id, fields…
local fired = redis.call('HGET', KEYS[1], ARGV[1])
if fired then
  local at, id = string.match(fired, '^(%-?%d+) (.*)$')
  if at and tonumber(at) >= tonumber(ARGV[2]) then
    return (at == ARGV[2] and id == ARGV[3]) and 1 or 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4))
return 1
