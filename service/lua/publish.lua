-- ARGV: id, epoch, then seq and event JSON of each mask, in order.
-- Returns, for each mask, 'ok' | 'duplicate' | 'gap' | 'fenced'; nothing is written from the first gap on.
local id = ARGV[1]
local masks = (#ARGV - 2) / 2
local answers = {}
if not owned(id, ARGV[2]) then
  for i = 1, masks do answers[i] = 'fenced' end
  return answers
end
local before = number(id, 'next_seq')
local next_seq, now = before, seconds()
for i = 1, masks do
  local seq = tonumber(ARGV[2 * i + 1])
  if seq < next_seq then
    answers[i] = 'duplicate'
  elseif seq > next_seq then
    answers[i] = 'gap'
  else
    redis.call('XADD', masks_key(id), (seq + 1) .. '-0', 'e', ARGV[2 * i + 2])
    next_seq = seq + 1
    answers[i] = 'ok'
  end
end
if next_seq > before then
  redis.call('HSET', key(id), 'next_seq', next_seq, 'last_mask_at', now)
  if (field(id, 'pace_from_at') or '') == '' then
    redis.call('HSET', key(id), 'pace_from_seq', before, 'pace_from_at', now)
  end
  if before == 0 then set_once(id, 'first_mask_at', now) end
end
return answers
