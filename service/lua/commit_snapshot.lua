-- ARGV: id, epoch, seq, SnapshotRecord JSON, bank bytes. Returns {status, replaced record or ''}.
local id, seq = ARGV[1], tonumber(ARGV[3])
if not owned(id, ARGV[2]) then return {'fenced', ''} end
if seq > number(id, 'next_seq') then return {'ahead', ''} end
local replaced = field(id, 'snapshot') or ''
redis.call('HSET', key(id), 'snapshot', ARGV[4], 'snapshot_seq', seq, 'bank_bytes', ARGV[5])
-- A live session's frames from before the snapshot are not needed again.
local input = key(id) .. ':input'
if redis.call('EXISTS', input) == 1 then
  local from = (seq + 1) .. '-0'
  redis.call('XTRIM', input, 'MINID', from)
  local first = redis.call('XRANGE', input, from, '+', 'COUNT', 1)[1]
  local before = first and first[2][7] == 'before' and first[2][8] or field(id, 'input_total')
  redis.call('HSET', key(id), 'input_floor', before)
end
return {'ok', replaced}
