-- The store's schema and the moves every script shares. Python puts the key table K (store_keys.py) before this file and
-- one of the other .lua files after it; each such script is one atomic step. Times are the server's own, in
-- milliseconds. The hash and the sorted sets are the truth; the streams carry delivery (who holds what).
--
--   JOB<id>          hash    status (reserved, queued, processing, succeeded, failed, canceled, expired), tenant,
--                            idem, quota, spec, priority, tokens, deadline, entry, queued, order, attempts, fence,
--                            worker, solo, cancel, stage, step, steps, taken, batch, started, finished, error, result,
--                            webhook_tries, kept (slice:bytes, as counted in KEPT)
--   EVENTS<id>       stream  type, data (JSON): everything that happened to the job, capped; it goes ten minutes after
--                            the end and the record alone tells how it ended
--   STREAM<priority> stream  job: one entry a job from submit to its end; group GROUP; its pending list is what runs
--   WAITING<priority> zset   id by order: queued jobs, the smallest order goes first
--   LEASES           zset    id by lease end: jobs that run
--   DEADLINES        zset    id by deadline: every job that is not terminal
--   IN_FLIGHT        zset    id by acceptance: reserved, queued or running
--   RESERVATIONS     zset    id by expiry: accepted requests that are not jobs yet
--   TENANT<tenant>   set     the tenant's ids in flight, and its catalogue uploads in work
--   TURNS<priority>:<tenant>  set  those of them that are jobs of this priority
--   LAST_TURN<priority> hash tenant to the order of its last job, while it has any in flight
--   IDEMPOTENCY<tenant>:<key digest>  hash  digest (of the body), job
--   RATE<tenant>     string  theoretical arrival time of the next request (GCRA)
--   QUOTA<tenant>:<day>  string  jobs and catalogue uploads accepted on that UTC day
--   KEPT<tenant>     hash    begin of a slice of time (s) to the bytes of the records made in it, while they may live
--   FENCE            string  the last fencing token; only grows
--   WAKE             list    tokens idle workers block on; at least one while anything waits
--   NOTICES          channel ids of jobs as events happen to them; a hint for followers
--   PREVIEW<id>      channel event id and a small picture in base64: channels reach no log and no disk
--   CANCELS          stream  job: cancellations of running jobs, for workers to read at once
--   ERASED           stream  job, content, words: hashes of erased pictures, for workers to forget; kept ten minutes
--   REWRITTEN        string  there while the store's log need not be rewritten again
--   SERVICE          hash    seconds: moving average of engine seconds a job
--   TOTALS           hash    counters of terminal transitions, exact under any crash
--   DEAD             stream  job, reason, message: jobs given up
--   GONE<id>         string  the id existed, 'of:' and whose it was; outlives the record
--   WORKERS          zset    worker by expiry; WORKER_INFO hash worker to JSON
--   WEBHOOKS         zset    id by when to tell the client's server next: ended jobs that asked for it
--   GARMENT<digest of tenant and sku>  string  catalogue record, JSON
--   HOLDINGS<tenant> hash    bytes of each of the tenant's garments by that digest, and "bytes", their sum
--   GARMENT_ENDS     zset    <tenant>:<digest> by the end of its life, which wearing it puts off

local PRIORITIES = {'high', 'normal', 'low'}
-- A job of a lower priority is treated as if it had come this much later: higher priorities overtake it, but only
-- those that came within the handicap, so nothing starves.
local HANDICAP_MS = {high = 0, normal = 8000, low = 30000}
local EVENTS_KEPT = 512
local EVENTS_TTL_S = 600
local ERASED_KEPT_MS = 600000

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function job_fields(id, ...)
  return redis.call('HMGET', K.JOB .. id, ...)
end

-- An event, and a notice of it. `preview`, a picture in base64, is told to those who listen now and kept nowhere.
local function publish(id, kind, data, preview)
  local event = redis.call('XADD', K.EVENTS .. id, 'MAXLEN', '~', EVENTS_KEPT, '*', 'type', kind, 'data', cjson.encode(data))
  if preview then redis.call('PUBLISH', K.PREVIEW .. id, event .. ' ' .. preview) end
  redis.call('PUBLISH', K.NOTICES, id)
end

-- Whether a field of a decoded JSON object says something.
local function given(value)
  return value ~= nil and value ~= cjson.null and value ~= ''
end

local function count(name)
  redis.call('HINCRBY', K.TOTALS, name, 1)
end

-- Tells workers whose pictures they must not remember: `blobs` are keys that end in <content hash>-<nonce>.
local function tell_erased(id, blobs, words, now)
  local hashes = {}
  for _, blob in ipairs(blobs) do hashes[#hashes + 1] = string.match(blob, '/(%x+)%-%x+$') end
  redis.call('XADD', K.ERASED, 'MINID', '=', string.format('%.0f', now - ERASED_KEPT_MS), '*',
    'job', id, 'content', table.concat(hashes, ' '), 'words', words and '1' or '0')
  redis.call('PEXPIRE', K.ERASED, ERASED_KEPT_MS)
end

local function waiting_count()
  local total = 0
  for _, priority in ipairs(PRIORITIES) do
    total = total + redis.call('ZCARD', K.WAITING .. priority)
  end
  return total
end

local function wake_if_work()
  if waiting_count() == 0 then
    redis.call('DEL', K.WAKE)
  elseif redis.call('LLEN', K.WAKE) == 0 then
    redis.call('RPUSH', K.WAKE, '1')
  end
end

-- After a flush or a lost stream the group must start at 0: starting at $ would skip what is already there.
local function ensure_group(priority)
  redis.pcall('XGROUP', 'CREATE', K.STREAM .. priority, K.GROUP, '0', 'MKSTREAM')
end

local function add_entry(id, priority)
  ensure_group(priority)
  local entry = redis.call('XADD', K.STREAM .. priority, '*', 'job', id)
  redis.call('HSET', K.JOB .. id, 'entry', entry)
  return entry
end

-- Places ahead of a waiting job over all priorities, nearly as claims are made; nil when it does not wait.
local function position(id)
  local priority = redis.call('HGET', K.JOB .. id, 'priority')
  if not priority then return nil end
  local rank = redis.call('ZRANK', K.WAITING .. priority, id)
  if not rank then return nil end
  local order = tonumber(redis.call('ZSCORE', K.WAITING .. priority, id)) + HANDICAP_MS[priority]
  for _, other in ipairs(PRIORITIES) do
    if other ~= priority then
      rank = rank + redis.call('ZCOUNT', K.WAITING .. other, '-inf', string.format('(%.0f', order - HANDICAP_MS[other]))
    end
  end
  return rank
end

local function live_workers(now)
  return redis.call('ZCOUNT', K.WORKERS, string.format('(%.0f', now), '+inf')
end

local function seconds_per_job()
  return tonumber(redis.call('HGET', K.SERVICE, 'seconds') or '1')
end

local function backlog_seconds(now)
  return waiting_count() * seconds_per_job() / math.max(1, live_workers(now))
end

-- Whether one more job of the tenant would wait too long, or leave others too little room. What waits, reservations
-- included, may fill `limit_s` seconds of all workers, and at least a few jobs each, so that slow engines are not
-- starved between claims. A tenant may have ROOM_SHARE times as many jobs in flight as are still free: alone it
-- gets four fifths, several get equal parts, and a newcomer finds room (dynamic thresholds: Choudhury, Hahne,
-- IEEE/ACM Trans. Networking 6(2), 1998). Who holds less than a quarter may also use LIGHT_ROOM of the room, so that
-- a flood does not refuse the others when the estimate of a job's time moves. Nothing is refused before the first
-- job has shown how long one takes.
local LEAST_WAITING, ROOM_SHARE, LIGHT_ROOM = 2, 4, 1.25

local function no_room(tenant, limit_s, now)
  if limit_s == 0 or redis.call('HEXISTS', K.SERVICE, 'seconds') == 0 then return false end
  local workers = math.max(1, live_workers(now))
  local waiting = redis.call('ZCARD', K.IN_FLIGHT) - redis.call('ZCARD', K.LEASES)
  local room = math.max(LEAST_WAITING * workers, limit_s * workers / seconds_per_job())
  local own = redis.call('SCARD', K.TENANT .. tenant)
  local free = (own < room / 4 and LIGHT_ROOM * room or room) - waiting
  return free < 1 or own >= ROOM_SHARE * free
end

-- What a record takes in the store besides its spec: fields, places in sets, its idempotency key, that it existed.
local RECORD_BYTES = 3072

local function slice_seconds(life_s) return math.max(1, math.floor(life_s / 24)) end

-- The bytes that the tenant's records take, and in how many milliseconds the oldest of them are gone.
local function kept_bytes(tenant, life_s, now)
  local total, oldest = 0, 0
  local counted = redis.call('HGETALL', K.KEPT .. tenant)
  for index = 1, #counted, 2 do
    local left = (tonumber(counted[index]) + slice_seconds(life_s) + life_s) * 1000 - now
    local bytes = tonumber(counted[index + 1])
    if left <= 0 then
      redis.call('HDEL', K.KEPT .. tenant, counted[index])
    elseif bytes > 0 then
      total = total + bytes
      oldest = oldest == 0 and left or math.min(oldest, left)
    end
  end
  return total, oldest
end

local function keep_bytes(id, tenant, bytes, life_s, now)
  local slice = string.format('%.0f', math.floor(now / 1000 / slice_seconds(life_s)) * slice_seconds(life_s))
  redis.call('HINCRBY', K.KEPT .. tenant, slice, bytes)
  redis.call('EXPIRE', K.KEPT .. tenant, life_s + slice_seconds(life_s))
  redis.call('HSET', K.JOB .. id, 'kept', slice .. ':' .. bytes)
end

local function give_back_bytes(tenant, kept)
  local slice, bytes = string.match(kept or '', '^(%d+):(%d+)$')
  if slice and redis.call('HEXISTS', K.KEPT .. tenant, slice) == 1 then
    redis.call('HINCRBY', K.KEPT .. tenant, slice, -tonumber(bytes))
  end
end

local function learn_service_time(id, now)
  local job = job_fields(id, 'taken', 'batch')
  if not job[1] then return end
  local seconds = (now - tonumber(job[1])) / 1000 / math.max(1, tonumber(job[2] or '1'))
  local known = redis.call('HGET', K.SERVICE, 'seconds')
  if known then seconds = 0.8 * tonumber(known) + 0.2 * seconds end
  redis.call('HSET', K.SERVICE, 'seconds', string.format('%.6f', seconds))
end

local function leave_flight(id, tenant, priority)
  redis.call('ZREM', K.IN_FLIGHT, id)
  redis.call('ZREM', K.DEADLINES, id)
  redis.call('ZREM', K.LEASES, id)
  redis.call('SREM', K.TENANT .. tenant, id)
  if not priority then return end
  local turns = K.TURNS .. priority .. ':' .. tenant
  redis.call('SREM', turns, id)
  if redis.call('EXISTS', turns) == 0 then redis.call('HDEL', K.LAST_TURN .. priority, tenant) end
end

-- A reservation that never became a job: everything it took is given back, its quota included unless it was `spent`.
local function unreserve(id, spent)
  local job = job_fields(id, 'status', 'tenant', 'idem', 'quota')
  redis.call('ZREM', K.RESERVATIONS, id)
  if job[1] ~= 'reserved' then return false end
  leave_flight(id, job[2])
  if job[3] ~= '' and redis.call('HGET', job[3], 'job') == id then redis.call('DEL', job[3]) end
  if not spent and job[4] ~= '' and redis.call('EXISTS', job[4]) == 1 then redis.call('DECR', job[4]) end
  redis.call('DEL', K.JOB .. id)
  return true
end

-- The one way a job becomes terminal. `err` and `result` are JSON or ''.
local function terminate(id, status, err, result, ttl_s, now)
  local job = job_fields(id, 'tenant', 'priority', 'entry', 'idem', 'status')
  local stream = K.STREAM .. job[2]
  redis.call('HSET', K.JOB .. id, 'status', status, 'finished', now, 'error', err, 'result', result)
  redis.call('ZREM', K.WAITING .. job[2], id)
  leave_flight(id, job[1], job[2])
  local data = {status = status}
  if err ~= '' then data.error = cjson.decode(err) end
  if result ~= '' then data.result = cjson.decode(result) end
  publish(id, status, data)
  redis.call('EXPIRE', K.JOB .. id, ttl_s)
  redis.call('EXPIRE', K.EVENTS .. id, math.min(ttl_s, EVENTS_TTL_S))
  if job[4] ~= '' then redis.call('EXPIRE', job[4], ttl_s) end
  redis.call('SET', K.GONE .. id, 'of:' .. job[1], 'EX', ttl_s * 2)
  count('requests|' .. status .. '|' .. (data.error and data.error.code or ''))
  if status == 'canceled' then count('canceled|' .. (job[5] == 'queued' and 'queued' or 'running')) end
  if status == 'expired' then count('deadline_exceeded') end
  local spec = cjson.decode(redis.call('HGET', K.JOB .. id, 'spec') or '{}')
  if given(spec.webhook_url) or given(spec.sealed) and spec.sealed.webhook then redis.call('ZADD', K.WEBHOOKS, now, id) end
  redis.pcall('XACK', stream, K.GROUP, job[3])
  redis.pcall('XDEL', stream, job[3])
end

local function problem(code, message, retryable)
  return cjson.encode({code = code, message = message, retryable = retryable})
end

local CANCELED = problem('canceled', 'The job was canceled by its owner.', false)
local EXPIRED = problem('deadline-exceeded', 'The job did not finish before its deadline; send it again with a later one.', true)

local function dead_letter(id, err, ttl_s, now)
  local reason = cjson.decode(err)
  redis.call('XADD', K.DEAD, 'MAXLEN', '~', 1000, '*', 'job', id, 'reason', reason.code, 'message', reason.message)
  count('dead_letter|' .. reason.code)
  terminate(id, 'failed', err, '', ttl_s, now)
end

-- Back to its old place in the line. `solo` jobs run alone next time, so that a poisonous one spares its neighbours.
local function requeue(id, solo)
  local job = job_fields(id, 'priority', 'order')
  redis.call('ZREM', K.LEASES, id)
  redis.call('HSET', K.JOB .. id, 'status', 'queued', 'solo', solo and '1' or '0', 'worker', '', 'stage', '')
  redis.call('ZADD', K.WAITING .. job[1], job[2], id)
  publish(id, 'queued', {status = 'queued', position = position(id)})
  wake_if_work()
end

-- Whether a write with this fencing token may still change the job.
local function holds(id, fence)
  local job = job_fields(id, 'status', 'fence')
  return job[1] == 'processing' and job[2] == fence
end

-- After an attempt failed or its worker vanished: canceled and late jobs end, spent ones are given up, others requeue.
local function settle_attempt(id, err, max_attempts, ttl_s, now)
  local job = job_fields(id, 'cancel', 'deadline', 'attempts')
  if job[1] == '1' then
    terminate(id, 'canceled', CANCELED, '', ttl_s, now)
    return 'canceled'
  elseif tonumber(job[2]) <= now then
    terminate(id, 'expired', EXPIRED, '', ttl_s, now)
    return 'expired'
  elseif tonumber(job[3]) >= max_attempts then
    dead_letter(id, err, ttl_s, now)
    return 'failed'
  end
  requeue(id, true)
  return 'requeued'
end
