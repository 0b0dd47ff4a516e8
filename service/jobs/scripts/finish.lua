-- Ends a running job, for the current fencing token only. Answers {1} when this outcome is the visible one, also when
-- it was written before, else {0}. A cancellation that came first wins over a picture that came late.
local id, fence, status, err, result, ttl_s = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local now = now_ms()
local job = job_fields(id, 'status', 'fence', 'cancel', 'result')
if not holds(id, fence) then
  local repeated = job[1] == status and job[2] == fence and job[4] == result
  return {repeated and 1 or 0}
end
learn_service_time(id, now)
if status == 'succeeded' and job[3] == '1' then
  terminate(id, 'canceled', CANCELED, '', ttl_s, now)
  return {0}
end
if status == 'canceled' and err == '' then err = CANCELED end
if status == 'expired' and err == '' then err = EXPIRED end
terminate(id, status, err, result, ttl_s, now)
return {1}
