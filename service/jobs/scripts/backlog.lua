-- {waiting, running, in flight, seconds of waiting work as a string}
return {waiting_count(), redis.call('ZCARD', K.LEASES), redis.call('ZCARD', K.IN_FLIGHT), tostring(backlog_seconds(now_ms()))}
