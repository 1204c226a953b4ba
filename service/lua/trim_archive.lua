-- ARGV: id, epoch, time. A live session's archive files from before `time`, as far as their masks are acknowledged,
-- leave the list. Returns {'ok' | 'fenced', name, ...}: files that may be deleted.
local id, before = ARGV[1], tonumber(ARGV[3])
if not owned(id, ARGV[2]) then return {'fenced'} end
local acked, names = number(id, 'acked'), {'ok'}
while true do
  local head = redis.call('LINDEX', key(id) .. ':archive', 0)
  local record = head and cjson.decode(head)
  if not record or record.at >= before or record.last >= acked then return names end
  redis.call('LPOP', key(id) .. ':archive')
  redis.call('HSET', key(id), 'kept_from_seq', record.last + 1)
  names[#names + 1] = record.name
end
