-- Puts a catalogue garment, or takes it away when its text is empty; workers forget the picture it had. Answers what
-- was there before, or false.
local key, text = ARGV[1], ARGV[2]
local before = redis.call('GET', key)
if text == '' then redis.call('DEL', key) else redis.call('SET', key, text) end
if before then tell_erased('', {cjson.decode(before).blob}, false, now_ms()) end
return before
