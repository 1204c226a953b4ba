-- ARGV: id, epoch. Hand a session back to the tail of its queue. Returns 'ok' | 'fenced'.
if not owned(ARGV[1], ARGV[2]) then return 'fenced' end
let_go(ARGV[1])
enqueue(ARGV[1])
return 'ok'
