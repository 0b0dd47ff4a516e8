-- What time does: stale reservations, leases that ran out, deadlines, announcements of workers that fell silent. Any
-- process may call it at any time. Answers one JSON object: ids by what became of them.
local max_attempts, ttl_s, grace_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local report = {requeued = {}, failed = {}, expired = {}, canceled = {}, reservations = {}}

-- A record someone deleted by hand must not stop the sweep of the others.
local function forgotten(id)
  if redis.call('EXISTS', K.JOB .. id) == 1 then return false end
  for _, set in ipairs({K.LEASES, K.DEADLINES, K.IN_FLIGHT}) do redis.call('ZREM', set, id) end
  return true
end

local function note(what, id) table.insert(report[what], id) end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.RESERVATIONS, '-inf', now, 'LIMIT', 0, 100)) do
  if unreserve(id) then note('reservations', id) end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.LEASES, '-inf', now, 'LIMIT', 0, 100)) do
  if not forgotten(id) then
    count('lease_lost')
    local attempts = redis.call('HGET', K.JOB .. id, 'attempts')
    local lost = problem('worker-lost', 'Its worker stopped answering in each of ' .. attempts .. ' attempts.', true)
    note(settle_attempt(id, lost, max_attempts, ttl_s, now), id)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.DEADLINES, '-inf', now, 'LIMIT', 0, 200)) do
  local job = forgotten(id) and {} or job_fields(id, 'status', 'deadline', 'cancel')
  if job[1] == 'queued' then
    terminate(id, 'expired', EXPIRED, '', ttl_s, now)
    note('expired', id)
  elseif job[1] == 'processing' and tonumber(job[2]) + grace_ms <= now then
    local canceled = job[3] == '1'
    terminate(id, canceled and 'canceled' or 'expired', canceled and CANCELED or EXPIRED, '', ttl_s, now)
    note(canceled and 'canceled' or 'expired', id)
  end
end

local gone = redis.call('ZRANGEBYSCORE', K.WORKERS, '-inf', now)
if #gone > 0 then
  redis.call('ZREM', K.WORKERS, unpack(gone))
  redis.call('HDEL', K.WORKER_INFO, unpack(gone))
end
wake_if_work()
return cjson.encode(report)
