#!lua
-- Keeps an event until it is due.
-- KEYS: due times, events
-- ARGV: event id, due in ms, stream, fields…
local entry = {}
for at = 3, #ARGV do entry[#entry + 1] = ARGV[at] end
redis.call('HSET', KEYS[2], ARGV[1], cmsgpack.pack(entry))
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
