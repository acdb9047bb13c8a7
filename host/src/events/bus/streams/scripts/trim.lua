#!lua flags=allow-oom
-- Removes entries from the beginning of a stream, none that a group has not read and acknowledged. Answers how many, how
-- many are left, and how many bytes they take.
-- KEYS: stream
-- ARGV: those before this id, or so many whatever their age
local function before(one, other)
  local a, b = string.match(one, '^(%d+)%-(%d+)$')
  local c, d = string.match(other, '^(%d+)%-(%d+)$')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a < c or (a == c and b < d)
end
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return { 0, 0, 0 } end
local bound
for _, info in ipairs(groups) do
  local about = {}
  for at = 1, #info, 2 do about[info[at]] = info[at + 1] end
  local needed = about['last-delivered-id']
  if about['pending'] > 0 then needed = redis.call('XPENDING', KEYS[1], about['name'])[2] end
  if not bound or before(needed, bound) then bound = needed end
end
local cutoff, many = ARGV[1], tonumber(ARGV[2])
if many > 0 then
  local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', many)
  local last = entries[#entries]
  if last then
    local time, number = string.match(last[1], '^(%d+)%-(%d+)$')
    cutoff = time .. '-' .. string.format('%.0f', number + 1)
  end
end
if bound and before(bound, cutoff) then cutoff = bound end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', cutoff)
return { removed, redis.call('XLEN', KEYS[1]), redis.call('MEMORY', 'USAGE', KEYS[1]) or 0 }
