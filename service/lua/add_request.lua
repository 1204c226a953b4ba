-- ARGV: id, request JSON, requests that the caller knows of or '', max queue, max active. References for a session that
-- runs, waits, or is completed. Returns 'ok' | 'missing' | 'changed' (others came in) | 'queue_full' | 'too_many' | the
-- final state that forbids it.
local id = ARGV[1]
local state = field(id, 'state')
if not state then return 'missing' end
if state == 'failed' or state == 'cancelled' then return state end
-- The answer to a first try may have been lost with the connection; no two requests are alike to the letter.
if redis.call('LPOS', key(id) .. ':requests', ARGV[2]) then return 'ok' end
if ARGV[3] ~= '' and redis.call('LLEN', key(id) .. ':requests') ~= tonumber(ARGV[3]) then return 'changed' end
if state == 'completed' then
  if redis.call('XLEN', P .. 'jobs:' .. field(id, 'engine')) >= tonumber(ARGV[4]) then return 'queue_full' end
  if redis.call('SCARD', P .. 'owner:' .. field(id, 'owner') .. ':active') >= tonumber(ARGV[5]) then return 'too_many' end
end
redis.call('RPUSH', key(id) .. ':requests', ARGV[2])
if state == 'running' then tell_workers() end
if state == 'idle' then enqueue(id) end
if state == 'completed' then
  redis.call('HSET', key(id), 'finished_at', '', 'attempts', '0')
  enqueue(id)
end
return 'ok'
