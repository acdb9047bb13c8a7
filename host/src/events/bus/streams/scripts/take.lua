#!lua flags=allow-oom
-- Takes over pending entries with the number of tries that they have. Answers like `read` for one stream, with 0 first
-- where the lease is this host's, then the id that the group has read up to.
-- KEYS: leases, stream
-- ARGV: host, fence, group, partition, id and tries of each entry…
local me, group = ARGV[1], ARGV[3]
if redis.call('HGET', KEYS[1], 'fence:' .. me) ~= ARGV[2] or redis.call('HGET', KEYS[1], ARGV[4]) ~= me then
  return { 1 }
end
local groups, read = redis.pcall('XINFO', 'GROUPS', KEYS[2]), nil
if groups.err then return { 2 } end
for _, info in ipairs(groups) do
  local about = {}
  for at = 1, #info, 2 do about[info[at]] = info[at + 1] end
  if about['name'] == group then read = about['last-delivered-id'] end
end
if not read then return { 2 } end
local entries = {}
for at = 5, #ARGV, 2 do
  -- With RETRYCOUNT the tries stay as they are: one is counted when it begins.
  local claimed = redis.call('XCLAIM', KEYS[2], group, me, 0, ARGV[at], 'RETRYCOUNT', ARGV[at + 1])
  if claimed[1] then entries[#entries + 1] = { ARGV[at], tonumber(ARGV[at + 1]), claimed[1][2] } end
end
return { 0, read, entries }
