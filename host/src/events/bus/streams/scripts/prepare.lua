#!lua flags=allow-oom
-- Notes a topic and the number of partitions, and creates a consumer group on its streams where it is missing.
-- Answers with the number of partitions that is in force.
-- KEYS: number of partitions, topics, streams of the topic (none where there is no group)
-- ARGV: partitions, topic, group, where the group begins
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local partitions = tonumber(redis.call('GET', KEYS[1]))
if partitions ~= tonumber(ARGV[1]) then return partitions end
redis.call('SADD', KEYS[2], ARGV[2])
for at = 3, #KEYS do
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[at], ARGV[3], ARGV[4], 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
end
return partitions
