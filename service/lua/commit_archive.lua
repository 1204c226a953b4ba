-- ARGV: id, epoch, first, last, ArchiveRecord JSON, entries to keep. Returns 'ok' | 'fenced' | 'gap'.
local id, first, last = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if not owned(id, ARGV[2]) then return 'fenced' end
-- The answer to a first try may have been lost with the connection.
if redis.call('LINDEX', key(id) .. ':archive', -1) == ARGV[5] then return 'ok' end
if first ~= number(id, 'archived_seq') or last >= number(id, 'next_seq') then return 'gap' end
redis.call('RPUSH', key(id) .. ':archive', ARGV[5])
redis.call('HSET', key(id), 'archived_seq', last + 1)
local safe = math.min(last + 1, number(id, 'snapshot_seq')) - tonumber(ARGV[6])
if safe > 0 then redis.call('XTRIM', masks_key(id), 'MINID', (safe + 1) .. '-0') end
return 'ok'
