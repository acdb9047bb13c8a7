#!lua flags=allow-oom
-- Forgets a subscription that no host has had for long. Answers whether it did.
-- KEYS: when subscriptions were seen, its leases, streams of its topic…, its own streams…
-- ARGV: subscription, group, seen before this time in ms, number of streams of its topic
local seen = redis.call('HGET', KEYS[1], ARGV[1])
if not seen or tonumber(seen) >= tonumber(ARGV[3]) then return 0 end
for at = 3, #KEYS do
  if at < 3 + ARGV[4] then
    redis.pcall('XGROUP', 'DESTROY', KEYS[at], ARGV[2])
  else
    redis.call('DEL', KEYS[at])
  end
end
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
