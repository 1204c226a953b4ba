-- KEYS: idempotency ('' for none). ARGV: id, owner, digest, idempotency ttl, max queue, max active, field, value, ...
-- Returns {'ok', id} | {'known', id} | {'conflict', id} | {'queue_full', n} | {'too_many', n}.
local id, owner, digest = ARGV[1], ARGV[2], ARGV[3]
-- The answer to a first try may have been lost with the connection; since then a worker may have claimed it.
if redis.call('EXISTS', key(id)) == 1 then return {'ok', id} end
if KEYS[1] ~= '' then
  local known = redis.call('HMGET', KEYS[1], 'digest', 'session')
  if known[1] then return {known[1] == digest and 'known' or 'conflict', known[2]} end
end
local fields = {}
for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
local engine
for i = 1, #fields, 2 do if fields[i] == 'engine' then engine = fields[i + 1] end end
local waiting = redis.call('XLEN', P .. 'jobs:' .. engine)
if waiting >= tonumber(ARGV[5]) then return {'queue_full', waiting} end
local active = redis.call('SCARD', P .. 'owner:' .. owner .. ':active')
if active >= tonumber(ARGV[6]) then return {'too_many', active} end
redis.call('HSET', key(id), unpack(fields))
redis.call('ZADD', P .. 'sessions', 0, id)
redis.call('ZADD', P .. 'owner:' .. owner .. ':sessions', 0, id)
if KEYS[1] ~= '' then
  redis.call('HSET', KEYS[1], 'digest', digest, 'session', id)
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
enqueue(id)
return {'ok', id}
