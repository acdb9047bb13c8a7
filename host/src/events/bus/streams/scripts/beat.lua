#!lua flags=allow-oom
-- One heartbeat of a host in one subscription: it lives, its leases go on, what it gives back is free, what the dead had
-- is free, and it takes of that up to its share. Answers with its share, then each partition that it has with the epoch
-- of the lease, which counts the times that the partition changed hands.
-- KEYS: leases, when subscriptions were seen
-- ARGV: host, fence, lease in ms, partitions, subscription, partitions given back…
local leases, me, partitions = KEYS[1], ARGV[1], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', leases, 'until:' .. me, now + tonumber(ARGV[3]), 'fence:' .. me, ARGV[2])
redis.call('HSET', KEYS[2], ARGV[5], now)
for at = 6, #ARGV do
  if redis.call('HGET', leases, ARGV[at]) == me then redis.call('HDEL', leases, ARGV[at]) end
end

local owner, live, names = {}, {}, {}
local all = redis.call('HGETALL', leases)
for at = 1, #all, 2 do
  local host = string.match(all[at], '^until:(.*)$')
  if not host then
    owner[all[at]] = all[at + 1]
  elseif tonumber(all[at + 1]) > now then
    live[host] = true
    names[#names + 1] = host
  else
    redis.call('HDEL', leases, all[at], 'fence:' .. host)
  end
end
table.sort(names)
local share = math.floor(partitions / #names)
for rank, name in ipairs(names) do
  if name == me and rank <= partitions % #names then share = share + 1 end
end

local mine, free = {}, {}
for partition = 0, partitions - 1 do
  local host = owner[tostring(partition)]
  if host == me then
    mine[#mine + 1] = partition
  elseif not host or not live[host] then
    free[#free + 1] = partition
  end
end
for _, partition in ipairs(free) do
  if #mine < share then
    redis.call('HSET', leases, partition, me)
    redis.call('HINCRBY', leases, 'epoch:' .. partition, 1)
    mine[#mine + 1] = partition
  else
    redis.call('HDEL', leases, partition)
  end
end
local answer = { share }
for _, partition in ipairs(mine) do
  answer[#answer + 1] = partition
  answer[#answer + 1] = tonumber(redis.call('HGET', leases, 'epoch:' .. partition))
end
return answer
