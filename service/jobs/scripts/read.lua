-- A job as one consistent picture: {fields and values, position or false}; false when there is none.
local fields = redis.call('HGETALL', K.JOB .. ARGV[1])
if #fields == 0 then return false end
return {fields, position(ARGV[1]) or false}
