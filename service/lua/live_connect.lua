-- ARGV: id. A client takes the session's input over; whoever had it is fenced from now on.
-- Returns {'ok', connection, next frame index} | {'missing'} | {the final state}.
local id = ARGV[1]
local state = field(id, 'state')
if not state then return {'missing'} end
if is_final(state) then return {state} end
return {'ok', redis.call('HINCRBY', key(id), 'connection', 1), number(id, 'frames_in')}
