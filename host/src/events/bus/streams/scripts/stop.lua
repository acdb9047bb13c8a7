#!lua flags=allow-oom
-- Takes back what replays have put into a stream that is one group's alone, as far as the group has not read it; dead
-- letters that were revived stay. Answers how many that were, and after which id to go on: '' at the end.
-- KEYS: stream
-- ARGV: group, after this id, at most so many looked at
local function before(one, other)
  local a, b = string.match(one, '^(%d+)%-(%d+)$')
  local c, d = string.match(other, '^(%d+)%-(%d+)$')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a < c or (a == c and b < d)
end
local function about(list)
  local fields = {}
  for at = 1, #list, 2 do fields[list[at]] = list[at + 1] end
  return fields
end
local groups, read, pending = redis.pcall('XINFO', 'GROUPS', KEYS[1]), nil, 0
if groups.err then return { 0, '' } end
for _, info in ipairs(groups) do
  local group = about(info)
  if group['name'] == ARGV[1] then read, pending = group['last-delivered-id'], group['pending'] end
end
if not read then return { 0, '' } end
-- What was read meanwhile is in somebody's hands.
local from = before(read, ARGV[2]) and ARGV[2] or read
local entries = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', ARGV[3])
local stopped = 0
for _, entry in ipairs(entries) do
  for at = 1, #entry[2], 2 do
    if entry[2][at] == 'replayed' then
      stopped = stopped + redis.call('XDEL', KEYS[1], entry[1])
      break
    end
  end
end
if #entries == tonumber(ARGV[3]) then return { stopped, entries[#entries][1] } end
-- Or Redis would go on counting what is gone as unread. What is settled is gone too, so what is there and not pending is not
-- read.
local stream = about(redis.call('XINFO', 'STREAM', KEYS[1]))
local unread = math.max(stream['length'] - pending, 0)
local upto = unread == 0 and stream['last-generated-id'] or read
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], upto, 'ENTRIESREAD', stream['entries-added'] - unread)
return { stopped, '' }
