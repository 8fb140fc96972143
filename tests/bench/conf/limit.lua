-- Minute limit (a fixed window), monthly quota and, if a stream is given, the usage event, in one step.
--
-- KEYS 1 the minute's counter | 2 the month's counter | 3 the stream, where the event is to be added here
-- ARGV 1 requests per minute | 2 requests per month | 3 the event
-- Reply 0 admitted, 1 over the minute limit, 2 over the quota
local minute = redis.call('INCR', KEYS[1])
if minute == 1 then redis.call('EXPIRE', KEYS[1], 60) end
if minute > tonumber(ARGV[1]) then return 1 end
local month = redis.call('INCR', KEYS[2])
if month == 1 then redis.call('EXPIRE', KEYS[2], 3456000) end
if month > tonumber(ARGV[2]) then
    redis.call('DECR', KEYS[2])
    return 2
end
if KEYS[3] then redis.call('XADD', KEYS[3], '*', 'e', ARGV[3]) end
return 0
