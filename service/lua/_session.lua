-- Shared prelude. Keys as in service/redis_keys.py; every script runs whole or not at all.
local P = '@PREFIX@'
local function key(id) return P .. 'session:' .. id end
local function masks_key(id) return key(id) .. ':masks' end
local function seconds() local t = redis.call('TIME'); return string.format('%d.%06d', t[1], t[2]) end
local function field(id, name) return redis.call('HGET', key(id), name) end
local function number(id, name) return tonumber(field(id, name) or '0') end

local function set_once(id, name, value)
  if (field(id, name) or '') == '' then redis.call('HSET', key(id), name, value) end
end

-- Whether `epoch` still owns the session. A session that Redis does not know is owned by nobody.
local function owned(id, epoch) return field(id, 'epoch') == epoch and (field(id, 'worker') or '') ~= '' end

-- An entry that is no mask; it wakes whoever tails the stream.
local function note(id, kind, data)
  local next_seq = field(id, 'next_seq') or '0'
  redis.call('XADD', masks_key(id), next_seq .. '-*', 'e',
    cjson.encode({type = kind, seq = tonumber(next_seq), data = data}))
end

-- Workers look at once; one that misses it looks at its next poll.
local function tell_workers() redis.call('PUBLISH', P .. 'news', '') end

local function let_go(id)
  local worker = field(id, 'worker') or ''
  if worker ~= '' then redis.call('SREM', P .. 'worker:' .. worker .. ':sessions', id) end
  redis.call('HSET', key(id), 'worker', '')
end

local function enqueue(id)
  local engine = field(id, 'engine')
  local entry = redis.call('XADD', P .. 'jobs:' .. engine, '*', 'session', id,
    'bytes', field(id, 'device_bytes') or '0', 'schema', field(id, 'schema_version') or '1')
  redis.call('HSET', key(id), 'state', 'queued', 'job', entry, 'queued_at', seconds())
  redis.call('SADD', P .. 'owner:' .. field(id, 'owner') .. ':active', id)
  note(id, 'state', {state = 'queued'})
  tell_workers()
end

local function unqueue(id)
  local entry = field(id, 'job') or ''
  if entry ~= '' then
    redis.call('XDEL', P .. 'jobs:' .. field(id, 'engine'), entry)
    redis.call('HSET', key(id), 'job', '')
  end
end

-- What the archive holds as well leaves Redis a while after.
local function settle(id, state, problem)
  unqueue(id)
  let_go(id)
  redis.call('HSET', key(id), 'state', state, 'error', problem, 'finished_at', seconds())
  redis.call('SREM', P .. 'owner:' .. field(id, 'owner') .. ':active', id)
  redis.call('DEL', key(id) .. ':input')
  note(id, 'state', {state = state})
  if number(id, 'archived_seq') == number(id, 'next_seq') then redis.call('EXPIRE', masks_key(id), @MASKS_TTL_S@) end
end

local function is_final(state) return state == 'completed' or state == 'failed' or state == 'cancelled' end

-- Forget the session; its files follow once DELETING is swept.
local function forget(id, word, ttl)
  local owner = field(id, 'owner')
  redis.call('ZREM', P .. 'sessions', id)  -- first: a full Redis allows a script everything once it has removed something
  if (field(id, 'worker') or '') ~= '' then tell_workers() end
  unqueue(id)
  let_go(id)
  if owner then
    redis.call('ZREM', P .. 'owner:' .. owner .. ':sessions', id)
    redis.call('SREM', P .. 'owner:' .. owner .. ':active', id)
  end
  redis.call('DEL', key(id), masks_key(id), key(id) .. ':archive', key(id) .. ':requests', key(id) .. ':input')
  redis.call('SET', P .. 'tombstone:' .. id, word, 'EX', ttl)
  redis.call('SADD', P .. 'deleting', id)
end

