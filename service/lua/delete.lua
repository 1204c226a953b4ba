-- ARGV: id, word (deleted | expired), tombstone ttl. Returns 'ok' | 'missing'.
if not field(ARGV[1], 'state') then return 'missing' end
forget(ARGV[1], ARGV[2], ARGV[3])
return 'ok'
