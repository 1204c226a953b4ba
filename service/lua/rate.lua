-- KEYS: bucket. ARGV: tokens per second, burst. Takes one token. Returns '0' or the seconds until there is one.
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(seconds())
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1] or burst)
local since = math.max(0, now - tonumber(bucket[2] or now))  -- a clock may be set back
tokens = math.min(burst, tokens + since * rate)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], math.ceil(burst / rate) + 1)
return tostring(wait)
