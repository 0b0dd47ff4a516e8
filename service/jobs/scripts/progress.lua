-- One step more. Answers 1, or 0 for a fencing token that is no longer current.
local id, fence, stage, step, steps, preview = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if not holds(id, fence) then return 0 end
redis.call('HSET', K.JOB .. id, 'stage', stage, 'step', step, 'steps', steps)
local data = {stage = stage, step = tonumber(step), steps = tonumber(steps)}
data.preview = preview ~= '' or nil
publish(id, 'progress', data, preview ~= '' and preview or nil)
return 1
