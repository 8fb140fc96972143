-- Admit one request against every limit that applies, or none of them, and hold what it will use.
--
-- KEYS  1 reservations (zset) | then each sliding window (list of admission times, ms) | then each quota counter |
--       then, if `idem` is 1, the idempotency marker
-- ARGV  1 reservation (member) | 2 number of windows | 3 number of quotas | 4 idem |
--       per window: limit, length in ms | per quota: limit (-1 = none), quantity, end of period (Unix s)
-- Reply {verdict, now_ms, per window: count, oldest_ms (0 = none) | per quota: used}
--       verdict 0 admitted, n > 0 refused by the n-th limit (windows first), -1 counted before (idempotency marker)
--
-- A window holds the admission times of the last `length` ms, so "never more than `limit` in any such span" is exact.
local windows, quotas, idem = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {0, now}
local verdict = 0

for i = 1, windows do
    local key = KEYS[1 + i]
    local limit, length = tonumber(ARGV[3 + 2 * i]), tonumber(ARGV[4 + 2 * i])
    local oldest = tonumber(redis.call('LINDEX', key, 0) or 0)
    if oldest > 0 and oldest <= now - length then
        if tonumber(redis.call('LINDEX', key, -1)) <= now - length then
            redis.call('DEL', key)
            oldest = 0
        else
            repeat
                redis.call('LPOP', key)
                oldest = tonumber(redis.call('LINDEX', key, 0))
            until oldest > now - length
        end
    end
    local count = oldest > 0 and redis.call('LLEN', key) or 0
    if count >= limit and verdict == 0 then verdict = i end
    reply[1 + 2 * i] = count
    reply[2 + 2 * i] = oldest
end

local base = 4 + 2 * windows
for i = 1, quotas do
    local used = tonumber(redis.call('GET', KEYS[1 + windows + i]) or 0)
    local limit, quantity = tonumber(ARGV[base + 3 * i - 2]), tonumber(ARGV[base + 3 * i - 1])
    if limit >= 0 and used + quantity > limit and verdict == 0 then verdict = windows + i end
    reply[2 + 2 * windows + i] = used
end

if idem and redis.call('EXISTS', KEYS[2 + windows + quotas]) == 1 then verdict = -1 end
if verdict ~= 0 then
    reply[1] = verdict
    return reply
end

for i = 1, windows do
    local key = KEYS[1 + i]
    reply[1 + 2 * i] = redis.call('RPUSH', key, now)
    if reply[2 + 2 * i] == 0 then reply[2 + 2 * i] = now end
    redis.call('PEXPIRE', key, ARGV[4 + 2 * i])
end
for i = 1, quotas do
    local key, quantity = KEYS[1 + windows + i], tonumber(ARGV[base + 3 * i - 1])
    local used = redis.call('INCRBY', key, quantity)
    -- kept a week past the period's end, for late settlements and for reconciliation
    if used == quantity then redis.call('EXPIREAT', key, ARGV[base + 3 * i] + 604800) end
    reply[2 + 2 * windows + i] = used
end
if idem then redis.call('SET', KEYS[2 + windows + quotas], '1', 'EX', 86400) end
redis.call('ZADD', KEYS[1], now, ARGV[1])
return reply
