-- ARGV: id, epoch, state, problem JSON or '', expires_at. All masks must be archived,
-- unless it failed; then the stream keeps those that are not.
-- Returns 'ok' | 'fenced' | 'unarchived' | 'more' (references came in).
local id, state = ARGV[1], ARGV[3]
-- The answer to a first try may have been lost with the connection.
if field(id, 'epoch') == ARGV[2] and is_final(state) and field(id, 'state') == state then return 'ok' end
if not owned(id, ARGV[2]) then return 'fenced' end
local whole = number(id, 'archived_seq') == number(id, 'next_seq')
if not whole and state ~= 'failed' then return 'unarchived' end
if state == 'completed' and redis.call('LLEN', key(id) .. ':requests') > number(id, 'requests_taken') then return 'more' end
redis.call('HSET', key(id), 'expires_at', ARGV[5], 'cancel', '0', 'snapshot', '')
settle(id, state, ARGV[4])
return 'ok'
