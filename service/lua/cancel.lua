-- ARGV: id, expires_at. Returns 'ok' | 'final' | 'missing'.
local id = ARGV[1]
local state = field(id, 'state')
if not state then return 'missing' end
if is_final(state) then return 'final' end
redis.call('HSET', key(id), 'cancel', '1')
tell_workers()
-- A waiting session that holds unarchived masks needs a worker once more, to write them down.
if (state == 'queued' or state == 'idle') and number(id, 'archived_seq') == number(id, 'next_seq') then
  redis.call('HSET', key(id), 'expires_at', ARGV[2])
  settle(id, 'cancelled', '')
end
return 'ok'
