-- A reservation becomes a job. Answers 1, also when it already did; 0 when the reservation is gone.
local id, spec, priority, tokens, deadline = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local job = job_fields(id, 'status', 'tenant')
if not job[1] then return 0 end
if job[1] ~= 'reserved' then return 1 end
local now = now_ms()

-- Inside a priority, each job the tenant already has there counts as one job's time of delay: tenants take turns.
local turns = K.TURNS .. priority .. ':' .. job[2]
local gap = math.max(100, math.min(10000, seconds_per_job() * 1000))
local order = string.format('%.0f', now + redis.call('SCARD', turns) * gap)
redis.call('SADD', turns, id)
redis.call('ZREM', K.RESERVATIONS, id)
redis.call('HSET', K.JOB .. id, 'status', 'queued', 'spec', spec, 'priority', priority, 'tokens', tokens,
  'deadline', deadline, 'queued', now, 'order', order, 'attempts', 0, 'fence', 0, 'cancel', '0', 'solo', '0')
redis.call('ZADD', K.WAITING .. priority, order, id)
redis.call('ZADD', K.DEADLINES, deadline, id)
add_entry(id, priority)
publish(id, 'queued', {status = 'queued', position = position(id)})
redis.call('RPUSH', K.WAKE, '1')
redis.call('LTRIM', K.WAKE, 0, 63)
return 1
