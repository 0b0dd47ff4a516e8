-- Leases waiting jobs to a worker: the first always, more while they fit the token budget together, solo ones alone:
-- the rule of engine_build/token_budget.py on the estimates of admission. Where it closes the line of one priority,
-- jobs of another that still fit may join. Jobs past their deadline end here. Answers a list of
-- {id, fence, attempt, entry, spec}.
local worker, max_jobs, budget = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local lease_ms, ttl_s = tonumber(ARGV[4]), tonumber(ARGV[5])
local now = now_ms()
local claimed, used, closed = {}, 0, {}

-- The head of the line whose time since it came, less its handicap, is longest.
local function next_waiting()
  local best, best_time, best_priority
  for _, priority in ipairs(PRIORITIES) do
    local id = not closed[priority] and redis.call('ZRANGE', K.WAITING .. priority, 0, 0)[1]
    if id then
      local time = tonumber(redis.call('HGET', K.JOB .. id, 'queued') or '0') + HANDICAP_MS[priority]
      if not best or time < best_time then best, best_time, best_priority = id, time, priority end
    end
  end
  return best, best_priority
end

local function lease(id, priority, attempts, entry, tokens)
  local fence = redis.call('INCR', K.FENCE)
  ensure_group(priority)
  local stream = K.STREAM .. priority
  if #redis.call('XCLAIM', stream, K.GROUP, worker, 0, entry, 'FORCE', 'JUSTID') == 0 then
    entry = add_entry(id, priority)
    redis.call('XCLAIM', stream, K.GROUP, worker, 0, entry, 'FORCE', 'JUSTID')
  end
  redis.call('ZREM', K.WAITING .. priority, id)
  redis.call('ZADD', K.LEASES, now + lease_ms, id)
  redis.call('HSET', K.JOB .. id, 'status', 'processing', 'fence', fence, 'attempts', attempts, 'worker', worker,
    'taken', now, 'stage', '', 'step', 0)
  redis.call('HSETNX', K.JOB .. id, 'started', now)
  publish(id, 'processing', {status = 'processing', attempt = attempts})
  claimed[#claimed + 1] = {id, tostring(fence), tostring(attempts), entry, redis.call('HGET', K.JOB .. id, 'spec')}
  used = used + tokens
end

for _ = 1, max_jobs + 32 do
  if #claimed >= max_jobs then break end
  local id, priority = next_waiting()
  if not id then break end
  local job = job_fields(id, 'status', 'deadline', 'tokens', 'solo', 'attempts', 'entry')
  local tokens = tonumber(job[3] or '0')
  if job[1] ~= 'queued' then
    redis.call('ZREM', K.WAITING .. priority, id)
  elseif tonumber(job[2]) <= now then
    terminate(id, 'expired', EXPIRED, '', ttl_s, now)
  elseif #claimed > 0 and (job[4] == '1' or used + tokens > budget) then
    closed[priority] = true
  else
    lease(id, priority, tonumber(job[5]) + 1, job[6], tokens)
    if job[4] == '1' then break end
  end
end

for _, taken in ipairs(claimed) do redis.call('HSET', K.JOB .. taken[1], 'batch', #claimed) end
wake_if_work()
return claimed
