-- ARGV: id, epoch, first, last, ArchiveRecord JSON, ttl of the mask stream.
-- Name the archive file of the masks that an ended session had left in its stream. Returns 'ok' | 'changed'.
local id, first, last = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if not is_final(field(id, 'state')) or field(id, 'epoch') ~= ARGV[2] then return 'changed' end
if first ~= number(id, 'archived_seq') or last + 1 ~= number(id, 'next_seq') then return 'changed' end
redis.call('RPUSH', key(id) .. ':archive', ARGV[5])
redis.call('HSET', key(id), 'archived_seq', last + 1, 'snapshot', '')
redis.call('EXPIRE', masks_key(id), ARGV[6])
return 'ok'
