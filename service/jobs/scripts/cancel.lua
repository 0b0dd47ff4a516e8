-- The owner's wish. A queued job ends here; a running one is flagged and its worker told. Answers the status met,
-- or missing.
local id, ttl_s = ARGV[1], tonumber(ARGV[2])
local status = redis.call('HGET', K.JOB .. id, 'status')
if not status or status == 'reserved' then return 'missing' end
if status == 'queued' then
  terminate(id, 'canceled', CANCELED, '', ttl_s, now_ms())
elseif status == 'processing' and redis.call('HGET', K.JOB .. id, 'cancel') ~= '1' then
  redis.call('HSET', K.JOB .. id, 'cancel', '1')
  redis.call('XADD', K.CANCELS, 'MAXLEN', '~', 256, '*', 'job', id)
end
return status
