-- A worker says what it is, or with no text that it leaves.
local worker, info, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
if info == '' then
  redis.call('ZREM', K.WORKERS, worker)
  redis.call('HDEL', K.WORKER_INFO, worker)
else
  redis.call('ZADD', K.WORKERS, now_ms() + ttl_ms, worker)
  redis.call('HSET', K.WORKER_INFO, worker, info)
end
return 1
