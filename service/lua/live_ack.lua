-- ARGV: id, connection, masks acknowledged. Returns 'ok' | 'taken'.
local id = ARGV[1]
if field(id, 'connection') ~= ARGV[2] then return 'taken' end
if tonumber(ARGV[3]) > number(id, 'acked') then redis.call('HSET', key(id), 'acked', ARGV[3]) end
return 'ok'
