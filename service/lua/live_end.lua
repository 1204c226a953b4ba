-- ARGV: id, connection ('' for the service itself). No more frames will come.
-- Returns 'ok' | 'taken' | 'missing' | the final state.
local id = ARGV[1]
local state = field(id, 'state')
if not state then return 'missing' end
if is_final(state) then return state end
if ARGV[2] ~= '' and field(id, 'connection') ~= ARGV[2] then return 'taken' end
if field(id, 'input_ended') ~= '1' then
  redis.call('HSET', key(id), 'input_ended', '1')
  redis.call('XADD', key(id) .. ':input', (number(id, 'frames_in') + 1) .. '-1', 'end', '1')
end
if state == 'idle' then enqueue(id) end
return 'ok'
