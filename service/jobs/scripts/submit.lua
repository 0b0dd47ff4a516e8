-- A reservation becomes a job. Answers 1, also when it already did; 0 when the reservation is gone.
local id, spec, priority, tokens, deadline, life_s = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local job = job_fields(id, 'status', 'tenant')
if not job[1] then return 0 end
if job[1] ~= 'reserved' then return 1 end
local now = now_ms()

-- Inside a priority tenants take turns: a tenant's next place is one job of its fair part of the workers after its
-- last one (virtual clock: L. Zhang, SIGCOMM 1990), never before its last one, so that its own jobs stay in order,
-- and at most DEBT_MS from now, so that nobody pays for long for what it used while others were away.
local DEBT_MS = 10000
local tenant, turns, last_turn = job[2], K.TURNS .. priority .. ':' .. job[2], K.LAST_TURN .. priority
local place = now
local last = tonumber(redis.call('HGET', last_turn, tenant))
if last then
  local gap = seconds_per_job() * 1000 * redis.call('HLEN', last_turn) / math.max(1, live_workers(now))
  place = math.max(now, last + 1, math.min(last + gap, now + DEBT_MS))
end
local order = string.format('%.0f', place)
redis.call('HSET', last_turn, tenant, order)
redis.call('SADD', turns, id)
redis.call('ZREM', K.RESERVATIONS, id)
redis.call('HSET', K.JOB .. id, 'status', 'queued', 'spec', spec, 'priority', priority, 'tokens', tokens,
  'deadline', deadline, 'queued', now, 'order', order, 'attempts', 0, 'fence', 0, 'cancel', '0', 'solo', '0')
keep_bytes(id, tenant, RECORD_BYTES + #spec, life_s, now)
redis.call('ZADD', K.WAITING .. priority, order, id)
redis.call('ZADD', K.DEADLINES, deadline, id)
add_entry(id, priority)
publish(id, 'queued', {status = 'queued', position = position(id)})
redis.call('RPUSH', K.WAKE, '1')
redis.call('LTRIM', K.WAKE, 0, 63)
return 1
