#!lua
-- Copies entries of a topic's stream to a stream that is one group's alone, where `replayed` tells them from dead letters
-- that were revived. Answers how many, and the id of the last.
-- KEYS: from stream, to stream
-- ARGV: group, from id, to id, at most
local entries = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
if #entries == 0 then return { 0, '' } end
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], 0, 'MKSTREAM')
for _, entry in ipairs(entries) do
  if #entry[2] <= 1000 then redis.call('XADD', KEYS[2], '*', 'replayed', '1', unpack(entry[2])) end
end
return { #entries, entries[#entries][1] }
