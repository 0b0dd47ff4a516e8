-- What may be new of several jobs, a word each: status, position (-1 where it does not wait) and events kept; '' of none.
local words = {}
for index, id in ipairs(ARGV) do
  local status = redis.call('HGET', K.JOB .. id, 'status')
  if status then
    words[index] = status .. ' ' .. (position(id) or -1) .. ' ' .. redis.call('XLEN', K.EVENTS .. id)
  else
    words[index] = ''
  end
end
return words
