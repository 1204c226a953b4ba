-- ARGV: id, epoch, seq, SnapshotRecord JSON, bank bytes. Returns {status, replaced record or ''}.
local id, seq = ARGV[1], tonumber(ARGV[3])
if not owned(id, ARGV[2]) then return {'fenced', ''} end
if seq > number(id, 'next_seq') then return {'ahead', ''} end
local replaced = field(id, 'snapshot') or ''
redis.call('HSET', key(id), 'snapshot', ARGV[4], 'snapshot_seq', seq, 'bank_bytes', ARGV[5])
return {'ok', replaced}
