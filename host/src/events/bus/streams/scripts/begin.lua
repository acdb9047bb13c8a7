#!lua flags=allow-oom
-- Counts a try of an entry that is about to begin. Answers 1, or 0 where the lease is another's, or 2 where there is no
-- such entry any more.
-- KEYS: leases, stream
-- ARGV: host, group, partition, id, the number of this try
if redis.call('HGET', KEYS[1], ARGV[3]) ~= ARGV[1] then return 0 end
local claimed = redis.call('XCLAIM', KEYS[2], ARGV[2], ARGV[1], 0, ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
return #claimed == 1 and 1 or 2
