-- ARGV: id, epoch, note JSON or '', field, value, ... Writes plan and references in one go.
-- Returns 'ok' | 'fenced'.
local id = ARGV[1]
if not owned(id, ARGV[2]) then return 'fenced' end
local fields = {}
for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', key(id), unpack(fields))
if ARGV[3] ~= '' then note(id, 'revision', cjson.decode(ARGV[3]).data) end
return 'ok'
