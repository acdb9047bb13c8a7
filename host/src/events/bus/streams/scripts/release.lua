#!lua flags=allow-oom
-- A host leaves a subscription: all its partitions are free at once.
-- KEYS: leases
-- ARGV: host, fence, partitions
if redis.call('HGET', KEYS[1], 'fence:' .. ARGV[1]) ~= ARGV[2] then return 0 end
for partition = 0, tonumber(ARGV[3]) - 1 do
  if redis.call('HGET', KEYS[1], partition) == ARGV[1] then redis.call('HDEL', KEYS[1], partition) end
end
return redis.call('HDEL', KEYS[1], 'until:' .. ARGV[1], 'fence:' .. ARGV[1])
