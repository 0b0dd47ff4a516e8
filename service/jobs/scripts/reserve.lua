-- Admission, before any work, of a job or of a catalogue upload: one rate, quota and concurrency for both; an upload
-- needs no room in the queue and leaves no record of a job. Answers {'reserved'}, {'existing', job}, {'pending'},
-- {'mismatch'} or {'rate' | 'quota' | 'bytes' | 'concurrency' | 'full', seconds until it is worth trying again}.
local id, tenant, idem, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local max_in_flight, concurrency, rate, quota = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local reservation_ms, life_s, max_backlog_s = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local max_bytes, for_queue = tonumber(ARGV[12]), ARGV[13] == 'job'
local now = now_ms()

-- Estimates send nobody away for longer than a minute.
local function try_again_in(seconds) return tostring(math.max(1, math.min(60, seconds))) end

if redis.call('EXISTS', K.JOB .. id) == 1 then return {'reserved'} end
for _, stale in ipairs(redis.call('ZRANGEBYSCORE', K.RESERVATIONS, '-inf', now, 'LIMIT', 0, 16)) do unreserve(stale) end

local idem_key = ''
if idem ~= '' then
  idem_key = K.IDEMPOTENCY .. tenant .. ':' .. idem
  local known = redis.call('HMGET', idem_key, 'digest', 'job')
  if known[1] then
    if known[1] ~= digest then return {'mismatch'} end
    local status = redis.call('HGET', K.JOB .. known[2], 'status')
    if status == 'reserved' then return {'pending'} end
    if status then return {'existing', known[2]} end
  end
end

if for_queue and (redis.call('ZCARD', K.IN_FLIGHT) >= max_in_flight or no_room(tenant, max_backlog_s, now)) then
  return {'full', try_again_in(backlog_seconds(now))}
end
if concurrency > 0 and redis.call('SCARD', K.TENANT .. tenant) >= concurrency then
  return {'concurrency', try_again_in(seconds_per_job())}
end
if for_queue and max_bytes > 0 then
  local bytes, oldest = kept_bytes(tenant, life_s, now)
  if bytes >= max_bytes then return {'bytes', tostring(oldest / 1000)} end
end
local quota_key = ''
if quota > 0 then
  local day = math.floor(now / 86400000)
  quota_key = K.QUOTA .. tenant .. ':' .. day
  if tonumber(redis.call('GET', quota_key) or '0') >= quota then
    return {'quota', tostring(((day + 1) * 86400000 - now) / 1000)}
  end
end
if rate > 0 then
  local gap = 60000 / rate
  local arrival = math.max(tonumber(redis.call('GET', K.RATE .. tenant) or '0'), now)
  if arrival - now > 60000 - gap + 0.5 then return {'rate', tostring((arrival - now - 60000 + gap) / 1000)} end
  redis.call('SET', K.RATE .. tenant, string.format('%.3f', arrival + gap), 'PX', 120000)
end
if quota > 0 then
  redis.call('INCR', quota_key)
  redis.call('EXPIRE', quota_key, 172800)
end

redis.call('HSET', K.JOB .. id, 'status', 'reserved', 'tenant', tenant, 'idem', idem_key, 'quota', quota_key)
if for_queue then redis.call('ZADD', K.IN_FLIGHT, now, id) end
redis.call('SADD', K.TENANT .. tenant, id)
redis.call('ZADD', K.RESERVATIONS, now + reservation_ms, id)
if idem_key ~= '' then
  redis.call('HSET', idem_key, 'digest', digest, 'job', id)
  redis.call('EXPIRE', idem_key, life_s)
end
return {'reserved'}
