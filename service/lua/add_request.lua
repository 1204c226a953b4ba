-- ARGV: id, request JSON. References for a session that runs, waits, or is completed.
-- Returns 'ok' | 'missing' | the final state that forbids it.
local id = ARGV[1]
local state = field(id, 'state')
if not state then return 'missing' end
if state == 'failed' or state == 'cancelled' then return state end
-- The answer to a first try may have been lost with the connection; no two requests are alike to the letter.
if redis.call('LPOS', key(id) .. ':requests', ARGV[2]) then return 'ok' end
redis.call('RPUSH', key(id) .. ':requests', ARGV[2])
if state == 'idle' then enqueue(id) end
if state == 'completed' then
  redis.call('HSET', key(id), 'finished_at', '', 'attempts', '0')
  enqueue(id)
end
return 'ok'
