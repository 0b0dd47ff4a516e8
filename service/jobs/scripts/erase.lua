-- Removes everything the store knows of a job at once, but that it existed; a run still going is fenced off and told
-- to stop, and workers are told to forget its pictures. Answers the record as it was last, so that no result written
-- just before is forgotten; false when there is none.
local id, ttl_s = ARGV[1], tonumber(ARGV[2])
local job = job_fields(id, 'status', 'idem', 'tenant', 'kept')
if not job[1] or job[1] == 'reserved' then return false end
local last = redis.call('HGETALL', K.JOB .. id)
if job[1] == 'queued' or job[1] == 'processing' then
  terminate(id, 'canceled', CANCELED, '', ttl_s, now_ms())
  if job[1] == 'processing' then redis.call('XADD', K.CANCELS, 'MAXLEN', '~', 256, '*', 'job', id) end
end
local spec = cjson.decode(redis.call('HGET', K.JOB .. id, 'spec'))
local blobs, words = {spec.person}, given(spec.prompt) or (given(spec.sealed) and spec.sealed.personal) or false
for _, garment in ipairs(spec.garments) do
  if not given(garment.sku) then blobs[#blobs + 1] = garment.blob end
  words = words or given(garment.layer)
end
tell_erased(id, blobs, words, now_ms())
give_back_bytes(job[3], job[4])
redis.call('DEL', K.JOB .. id, K.EVENTS .. id)
if job[2] ~= '' then redis.call('DEL', job[2]) end
redis.call('PUBLISH', K.NOTICES, id)
redis.call('SET', K.GONE .. id, 'of:' .. job[3], 'EX', ttl_s * 2)
return last
