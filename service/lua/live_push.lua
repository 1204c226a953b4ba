-- ARGV: id, connection, frame index, image, pts_s, ReferenceRequest JSON or '', byte limit, masks acknowledged.
-- Returns 'ok' | 'duplicate' | 'full' | 'taken' (by another connection) | 'ended' | 'missing' | the final state.
local id, index = ARGV[1], tonumber(ARGV[3])
local state = field(id, 'state')
if not state then return 'missing' end
if is_final(state) then return state end
if field(id, 'connection') ~= ARGV[2] then return 'taken' end
if field(id, 'input_ended') == '1' then return 'ended' end
local frames_in, total = number(id, 'frames_in'), number(id, 'input_total')
if index ~= frames_in then return 'duplicate' end
local held = total - number(id, 'input_floor')
if held > 0 and held + #ARGV[4] > tonumber(ARGV[7]) then return 'full' end
-- `before`: bytes of all earlier frames, so that a trim knows what it leaves.
redis.call('XADD', key(id) .. ':input', (index + 1) .. '-0',
  'frame', ARGV[4], 'pts_s', ARGV[5], 'request', ARGV[6], 'before', total)
redis.call('HSET', key(id), 'frames_in', index + 1, 'input_total', total + #ARGV[4], 'last_frame_at', seconds())
if tonumber(ARGV[8]) > number(id, 'acked') then redis.call('HSET', key(id), 'acked', ARGV[8]) end
if state == 'idle' then enqueue(id) end
return 'ok'
