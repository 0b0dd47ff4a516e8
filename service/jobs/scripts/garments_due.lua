-- Catalogue garments whose life is over, at most ARGV[1]: {tenant, digest, record} each.
local due = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', K.GARMENT_ENDS, '-inf', now_ms(), 'LIMIT', 0, ARGV[1])) do
  local tenant, digest = string.match(member, '^(.*):(%x+)$')
  local text = redis.call('GET', K.GARMENT .. digest)
  if text then
    due[#due + 1] = {tenant, digest, text}
  else
    redis.call('ZREM', K.GARMENT_ENDS, member)
  end
end
return due
