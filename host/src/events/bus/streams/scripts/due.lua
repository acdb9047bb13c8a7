#!lua
-- Moves events that are due to their streams. Answers how many, and in how many ms the next is due; -1 where there is none.
-- KEYS: due times, events
-- ARGV: at most
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local packed = redis.call('HGET', KEYS[2], id)
  if packed then
    local entry = cmsgpack.unpack(packed)
    redis.call('XADD', entry[1], '*', unpack(entry, 2))
    redis.call('HDEL', KEYS[2], id)
  end
  redis.call('ZREM', KEYS[1], id)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return { #due, first[2] and math.max(0, first[2] - now) or -1 }
