-- ARGV: id, owner, number of archive records, archive record, ..., field, value, ...
-- Put back a final session that Redis does not know. Returns 'ok' | 'known' (it is there, or was deleted on purpose).
local id, owner, archives = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', key(id), P .. 'tombstone:' .. id) > 0 then return 'known' end
local fields = {}
for i = 4 + archives, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', key(id), unpack(fields))
for i = 4, 3 + archives do redis.call('RPUSH', key(id) .. ':archive', ARGV[i]) end
redis.call('ZADD', P .. 'sessions', 0, id)
redis.call('ZADD', P .. 'owner:' .. owner .. ':sessions', 0, id)
return 'ok'
