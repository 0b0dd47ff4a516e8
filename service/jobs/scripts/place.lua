-- {status, position or -1, events kept} of a job; {} when there is none.
local status = redis.call('HGET', K.JOB .. ARGV[1], 'status')
if not status then return {} end
return {status, position(ARGV[1]) or -1, redis.call('XLEN', K.EVENTS .. ARGV[1])}
