-- ARGV: id, epoch, state, problem JSON or '', expires_at, ttl of the mask stream. All that was published must be archived before.
-- Returns 'ok' | 'fenced' | 'unarchived' | 'more': references came in meanwhile and the worker must go on.
local id, state = ARGV[1], ARGV[3]
if not owned(id, ARGV[2]) then return 'fenced' end
if number(id, 'archived_seq') ~= number(id, 'next_seq') then return 'unarchived' end
if state == 'completed' and redis.call('LLEN', key(id) .. ':requests') > 0 then return 'more' end
redis.call('HSET', key(id), 'expires_at', ARGV[5], 'cancel', '0')
settle(id, state, ARGV[4])
redis.call('EXPIRE', masks_key(id), ARGV[6])
return 'ok'
