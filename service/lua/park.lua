-- ARGV: id, epoch. A live session without frames gives its worker up until the next one comes.
-- Returns 'ok' | 'fenced' | 'more' (there is work after all).
local id = ARGV[1]
if not owned(id, ARGV[2]) then return 'fenced' end
local next_seq = number(id, 'next_seq')
local done = number(id, 'frames_in') == next_seq and number(id, 'archived_seq') == next_seq
local waits = redis.call('LLEN', key(id) .. ':requests') > number(id, 'requests_taken')
if not done or waits or number(id, 'snapshot_seq') ~= next_seq then return 'more' end
if field(id, 'input_ended') == '1' or field(id, 'cancel') == '1' then return 'more' end
let_go(id)
redis.call('HSET', key(id), 'state', 'idle')
note(id, 'state', {state = 'idle'})
return 'ok'
