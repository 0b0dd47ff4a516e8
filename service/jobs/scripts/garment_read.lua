-- A catalogue garment and when its life ends, in milliseconds, or '' for never; wearing it begins its life anew. Answers
-- false when there is none, or its life is over and its picture only waits to be erased.
local tenant, digest, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local member = tenant .. ':' .. digest
local text = redis.call('GET', K.GARMENT .. digest)
if not text then return false end
local ends, now = redis.call('ZSCORE', K.GARMENT_ENDS, member), now_ms()
if ends and tonumber(ends) <= now then return false end
if ttl_ms > 0 then
  ends = string.format('%.0f', now + ttl_ms)
  redis.call('ZADD', K.GARMENT_ENDS, ends, member)
end
return {text, ends or ''}
