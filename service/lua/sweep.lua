-- ARGV: attempts allowed, poison JSON, dead letters kept, seconds to keep a failed session. Takes sessions from workers whose lease has run out.
-- A death counts against a session only in a stage of its own, and only if nothing was published since the last one.
-- Returns a list of {id, 'queued' | 'failed', worker}.
local swept = {}

local function blame(id, worker)
  local next_seq = field(id, 'next_seq')
  local attempts = field(id, 'attempt_seq') == next_seq and number(id, 'attempts') + 1 or 1
  redis.call('HSET', key(id), 'attempts', attempts, 'attempt_seq', next_seq)
  if attempts < tonumber(ARGV[1]) then return false end
  redis.call('XADD', P .. 'dead_letters', 'MAXLEN', '~', ARGV[3], '*', 'session', id, 'worker', worker,
    'stage', redis.call('HGET', P .. 'worker:' .. worker, 'stage') or '', 'next_seq', next_seq)
  return true
end

local function take(id, worker, in_stage)
  if field(id, 'worker') ~= worker then return end
  redis.call('HINCRBY', key(id), 'epoch', 1)
  let_go(id)
  if in_stage and blame(id, worker) then
    redis.call('HSET', key(id), 'expires_at', seconds() + ARGV[4])
    settle(id, 'failed', ARGV[2])
    swept[#swept + 1] = {id, 'failed', worker}
  else
    enqueue(id)
    swept[#swept + 1] = {id, 'queued', worker}
  end
end

for _, worker in ipairs(redis.call('SMEMBERS', P .. 'workers')) do
  local base = P .. 'worker:' .. worker
  if redis.call('EXISTS', base .. ':lease') == 0 then
    local in_stage = {}
    for id in (redis.call('HGET', base, 'stage_sessions') or ''):gmatch('%S+') do in_stage[id] = true end
    for _, id in ipairs(redis.call('SMEMBERS', base .. ':sessions')) do take(id, worker, in_stage[id]) end
    redis.call('DEL', base, base .. ':sessions')
    redis.call('SREM', P .. 'workers', worker)
  end
end
return swept
