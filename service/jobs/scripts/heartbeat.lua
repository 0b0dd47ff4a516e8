-- Renews leases: ARGV is the lease in ms, then id, fence pairs. Answers ok, lost, canceled or expired for each. A
-- canceled or expired job keeps its lease, so that its worker can end it properly.
local now, answers = now_ms(), {}
for index = 2, #ARGV, 2 do
  local id, fence = ARGV[index], ARGV[index + 1]
  local answer = 'lost'
  if holds(id, fence) then
    redis.call('ZADD', K.LEASES, now + tonumber(ARGV[1]), id)
    local job = job_fields(id, 'cancel', 'deadline')
    answer = 'ok'
    if job[1] == '1' then answer = 'canceled' elseif tonumber(job[2]) <= now then answer = 'expired' end
  end
  answers[#answers + 1] = answer
end
return answers
