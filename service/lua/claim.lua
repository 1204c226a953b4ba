-- ARGV: worker, free bytes, schema version, engine, ... The oldest job over all engines that the worker may run;
-- a head that does not fit now blocks its own stream, so that a large session is never overtaken for ever. What this
-- worker could never hold, or is of a later version, waits for another worker and blocks nothing here.
-- Returns {id, epoch}, or false when there is nothing to take.
local worker, free, schema = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local facts = redis.call('HGET', P .. 'worker:' .. worker, 'record')
local capacity = facts and cjson.decode(facts).capacity_bytes or math.huge
local PAGE = 32

local function wanted(values, entry)
  local id = values['session']
  return field(id, 'state') == 'queued' and field(id, 'job') == entry
end

local function head(stream)
  local from = '-'
  repeat
    local items = redis.call('XRANGE', stream, from, '+', 'COUNT', PAGE)
    for _, item in ipairs(items) do
      local values = {}
      for i = 1, #item[2], 2 do values[item[2][i]] = item[2][i + 1] end
      if not wanted(values, item[1]) then
        redis.call('XDEL', stream, item[1])
      elseif tonumber(values['schema']) <= schema and tonumber(values['bytes']) <= capacity then
        return item[1], values
      end
      from = '(' .. item[1]
    end
  until #items < PAGE
end

local function older(a, b)
  local a1, a2 = a:match('(%d+)-(%d+)')
  local b1, b2 = b:match('(%d+)-(%d+)')
  a1, b1 = tonumber(a1), tonumber(b1)
  return a1 < b1 or (a1 == b1 and tonumber(a2) < tonumber(b2))
end

local best, best_id
for i = 4, #ARGV do
  local entry, values = head(P .. 'jobs:' .. ARGV[i])
  if entry and tonumber(values['bytes']) <= free and (not best or older(entry, best)) then
    best, best_id = entry, values['session']
  end
end
if not best then return false end
unqueue(best_id)
local epoch = redis.call('HINCRBY', key(best_id), 'epoch', 1)
redis.call('HSET', key(best_id), 'worker', worker, 'state', 'running', 'pace_from_seq', '', 'pace_from_at', '')
redis.call('PERSIST', masks_key(best_id))
set_once(best_id, 'started_at', seconds())
redis.call('SADD', P .. 'worker:' .. worker .. ':sessions', best_id)
redis.call('SADD', P .. 'workers', worker)
note(best_id, 'state', {state = 'running'})
return {best_id, tostring(epoch)}
