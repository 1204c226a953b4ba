-- ARGV: id, epoch, requests taken, note JSON or '', field, value, ... Writes plan and references in one go.
-- Returns 'ok' | 'fenced'.
local id, taken = ARGV[1], tonumber(ARGV[3])
if not owned(id, ARGV[2]) then return 'fenced' end
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', key(id), unpack(fields))
if taken > 0 then redis.call('LTRIM', key(id) .. ':requests', taken, -1) end
if ARGV[4] ~= '' then note(id, 'revision', cjson.decode(ARGV[4]).data) end
return 'ok'
