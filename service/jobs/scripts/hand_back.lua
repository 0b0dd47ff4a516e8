-- A draining worker returns a job unharmed: the attempt does not count. A canceled job ends instead. Answers 1, or 0
-- when the worker no longer holds it.
local id, fence, ttl_s = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not holds(id, fence) then return 0 end
local job = job_fields(id, 'attempts', 'cancel', 'solo')
redis.call('HSET', K.JOB .. id, 'attempts', math.max(0, tonumber(job[1]) - 1))
if job[2] == '1' then
  terminate(id, 'canceled', CANCELED, '', ttl_s, now_ms())
else
  requeue(id, job[3] == '1')
end
return 1
