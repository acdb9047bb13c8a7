#!lua flags=allow-oom
-- Reads what is new from streams whose partitions this host has a lease of; whoever lost it gets nothing. Answers for
-- each stream that was come to with its place among KEYS, and the entries; or 1 where the lease is another's, or 2 where
-- the group is gone.
-- KEYS: leases, streams…
-- ARGV: host, fence, group, entries at most, of one stream at most, whether reading counts as a try, partition of each stream…
local me, group, left = ARGV[1], ARGV[3], tonumber(ARGV[4])
local here = redis.call('HGET', KEYS[1], 'fence:' .. me) == ARGV[2]
local answer = {}
for at = 2, #KEYS do
  if left == 0 then break end
  if not here or redis.call('HGET', KEYS[1], ARGV[at + 5]) ~= me then
    answer[#answer + 1] = { at - 2, 1 }
  else
    local count = math.min(left, tonumber(ARGV[5]))
    local read = redis.pcall('XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', KEYS[at], '>')
    if read and read.err then
      if not string.find(read.err, 'NOGROUP') then return read end
      answer[#answer + 1] = { at - 2, 2 }
    elseif read then
      local entries = read[1][2]
      left = left - #entries
      if ARGV[6] == '0' then
        local claim = { 'XCLAIM', KEYS[at], group, me, 0 }
        for _, entry in ipairs(entries) do claim[#claim + 1] = entry[1] end
        claim[#claim + 1] = 'RETRYCOUNT'
        claim[#claim + 1] = 0
        claim[#claim + 1] = 'JUSTID'
        redis.call(unpack(claim))
      end
      answer[#answer + 1] = { at - 2, entries }
    end
  end
end
return answer
