-- What the workers that are ready now said of themselves.
local ready = redis.call('ZRANGEBYSCORE', K.WORKERS, string.format('(%.0f', now_ms()), '+inf')
local infos = {}
for _, worker in ipairs(ready) do
  local info = redis.call('HGET', K.WORKER_INFO, worker)
  if info then infos[#infos + 1] = info end
end
return infos
