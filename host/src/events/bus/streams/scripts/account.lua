#!lua flags=allow-oom
-- Of each stream: how many entries are pending in the group, and how many it has not read. -1 is unknown.
-- KEYS: streams…
-- ARGV: group
local answer = {}
for _, stream in ipairs(KEYS) do
  local pending, lag = -1, -1
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    for _, info in ipairs(groups) do
      local about = {}
      for at = 1, #info, 2 do about[info[at]] = info[at + 1] end
      if about['name'] == ARGV[1] then
        pending = about['pending']
        lag = about['lag'] or -1
      end
    end
  end
  answer[#answer + 1] = pending
  answer[#answer + 1] = lag
end
return answer
