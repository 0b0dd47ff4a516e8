-- Puts a catalogue garment within the bounds of its tenant, or takes it away when its text is empty; workers forget the
-- picture it had. With `only` it is taken away only while it has that blob and its life is over. Answers
-- {'done', what was there before or '', when its life ends or ''}, or {'garments' | 'bytes', how many the tenant holds} when there is no room.
local tenant, digest, text, size = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local most, most_bytes, ttl_ms, only = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local key, holdings, member = K.GARMENT .. digest, K.HOLDINGS .. tenant, tenant .. ':' .. digest
local before, now = redis.call('GET', key), now_ms()
local had, ends = redis.call('HGET', holdings, digest), ''

if only ~= '' then
  local ends = tonumber(redis.call('ZSCORE', K.GARMENT_ENDS, member) or '0')
  if ends > now then return {'done', '', ''} end
  if not before or cjson.decode(before).blob ~= only then
    redis.call('ZREM', K.GARMENT_ENDS, member)
    return {'done', '', ''}
  end
end

if text == '' then
  redis.call('DEL', key)
  redis.call('ZREM', K.GARMENT_ENDS, member)
  if had then
    redis.call('HDEL', holdings, digest)
    redis.call('HINCRBY', holdings, 'bytes', -tonumber(had))
    if redis.call('HLEN', holdings) == 1 then redis.call('DEL', holdings) end
  end
else
  local count = math.max(0, redis.call('HLEN', holdings) - 1)
  local bytes = tonumber(redis.call('HGET', holdings, 'bytes') or '0')
  if most > 0 and not had and count >= most then return {'garments', tostring(count)} end
  if most_bytes > 0 and bytes - tonumber(had or '0') + size > most_bytes then return {'bytes', tostring(bytes)} end
  redis.call('SET', key, text)
  redis.call('HSET', holdings, digest, size)
  redis.call('HINCRBY', holdings, 'bytes', size - tonumber(had or '0'))
  if ttl_ms > 0 then
    ends = string.format('%.0f', now + ttl_ms)
    redis.call('ZADD', K.GARMENT_ENDS, ends, member)
  else
    redis.call('ZREM', K.GARMENT_ENDS, member)
  end
end
if before then tell_erased('', {cjson.decode(before).blob}, false, now) end
return {'done', before or '', ends}
