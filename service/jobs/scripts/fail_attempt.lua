-- An attempt failed for a reason that another attempt may not meet. Answers what became of the job, or lost.
local id, fence, err, max_attempts, ttl_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if not holds(id, fence) then return 'lost' end
return settle_attempt(id, err, max_attempts, ttl_s, now_ms())
