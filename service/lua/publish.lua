-- ARGV: id, epoch, seq, event JSON. Returns 'ok' | 'duplicate' | 'gap' | 'fenced'.
local id, seq = ARGV[1], tonumber(ARGV[3])
if not owned(id, ARGV[2]) then return 'fenced' end
local next_seq = number(id, 'next_seq')
if seq < next_seq then return 'duplicate' end
if seq > next_seq then return 'gap' end
redis.call('XADD', masks_key(id), (seq + 1) .. '-0', 'e', ARGV[4])
local now = seconds()
redis.call('HSET', key(id), 'next_seq', seq + 1, 'last_mask_at', now)
if seq == 0 then set_once(id, 'first_mask_at', now) end
return 'ok'
