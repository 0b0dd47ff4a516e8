-- Ended jobs whose webhook is due, given to one worker for ARGV[2] ms: whoever dies while delivering leaves it to the
-- next. Answers a list of {id, number of this try}.
local limit, hold_ms, now, due = tonumber(ARGV[1]), tonumber(ARGV[2]), now_ms(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.WEBHOOKS, '-inf', now, 'LIMIT', 0, limit)) do
  if redis.call('EXISTS', K.JOB .. id) == 1 then
    redis.call('ZADD', K.WEBHOOKS, now + hold_ms, id)
    due[#due + 1] = {id, redis.call('HINCRBY', K.JOB .. id, 'webhook_tries', 1)}
  else
    redis.call('ZREM', K.WEBHOOKS, id)
  end
end
return due
