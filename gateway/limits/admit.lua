-- Admit one request against every limit that applies, or none of them, and hold what it will use.
--
-- KEYS  1 reservations (hash) | then each sliding window (list of admission times, ms) | then each quota counter |
--       then, if `idem` is 1, the idempotency marker | each priced meter's counter | last the shard's epoch
-- ARGV  1 event id | 2 reservation (JSON) | 3 number of windows | 4 number of quotas | 5 idem (1), shadow (2), both (3) |
--       per window: limit, length in ms | per quota: limit (-1 = none), quantity, end of period (Unix s) |
--       with a spend cap: number of priced meters, cap, per priced meter: included, price of a unit beyond it
-- Reply {verdict, now_ms, per window: count, oldest_ms | per quota: used}
--       verdict 0 admitted, n > 0 refused by the n-th limit (windows, quotas, spend cap), -1 counted before (idempotency marker),
--       -2 unknown: the counters were lost, and nothing was changed
--       In shadow mode everything is admitted and the reply ends with the verdict there would have been (0: none).
--
-- A window holds the admission times of the last `length` ms, so "never more than `limit` in any such span" is exact.
-- It is counted by adding first and taking back on refusal: one command less for those who are admitted. Its list expires
-- two lengths after it was begun or last trimmed: by then, whatever is in it is older than one length.
-- Globals are looked up by name each time, so what is used often is local: with that in settle.lua 0.5 us a request.
-- What goes to a command is text, not a number: Redis 7.0 prints numbers with "%.17g", half a microsecond each.
local keys, args, call, number = KEYS, ARGV, redis.call, tonumber
local windows, quotas, idem = number(args[3]), number(args[4]), args[5] == '1' or args[5] == '3'
local time = call('TIME')
local ms = #time[2] == 6 and string.sub(time[2], 1, 3) or string.format('%03d', math.floor(time[2] / 1000))
local stamp = time[1] .. ms
local now = number(stamp)
local reply = {0, now, nil, nil, nil}  -- with room for one window and one quota
local marker = keys[2 + windows + quotas]

if idem and call('EXISTS', marker) == 1 then
    reply[1] = -1
    for i = 1, windows do
        reply[1 + 2 * i] = call('LLEN', keys[1 + i])
        reply[2 + 2 * i] = now
    end
    for i = 1, quotas do
        reply[2 + 2 * windows + i] = number(call('GET', keys[1 + windows + i]) or 0)
    end
    return reply
end

local verdict, is_fresh = 0, false
for i = 1, windows do
    local key = keys[1 + i]
    local limit, length = number(args[4 + 2 * i]), number(args[5 + 2 * i])
    local oldest = number(call('LINDEX', key, '0') or now)
    local trimmed = false
    if oldest <= now - length then
        if number(call('LINDEX', key, '-1')) <= now - length then
            call('DEL', key)
            oldest = now
        else
            repeat
                call('LPOP', key)
                oldest = number(call('LINDEX', key, '0'))
            until oldest > now - length
        end
        trimmed = true
    end
    local count = call('RPUSH', key, stamp)
    if count == 1 then is_fresh = true end
    if count == 1 or trimmed then call('PEXPIRE', key, 2 * length) end
    reply[1 + 2 * i] = count
    reply[2 + 2 * i] = oldest
    if count > limit and verdict == 0 then verdict = i end
end

local base = 5 + 2 * windows
for i = 1, quotas do
    local key, quantity = keys[1 + windows + i], args[base + 3 * i - 1]
    local limit = number(args[base + 3 * i - 2])
    local used = call('INCRBY', key, quantity)
    -- kept a week past the period's end, for late settlements and for reconciliation
    if used == number(quantity) then
        is_fresh = true
        call('EXPIREAT', key, args[base + 3 * i] + 604800)
    end
    reply[2 + 2 * windows + i] = used
    if limit >= 0 and used > limit and verdict == 0 then verdict = windows + i end
end

local at = base + 3 * quotas + 1
if args[at] then
    local priced, spent = number(args[at]), 0
    for i = 1, priced do
        local beyond = number(call('GET', keys[#keys - priced - 1 + i]) or 0) - number(args[at + 2 * i])
        if beyond > 0 then spent = spent + beyond * number(args[at + 1 + 2 * i]) end
    end
    -- prices have at most ten decimals; what doubles are off by is less than that, or grows with the sum
    local cap = number(args[at + 1])
    if spent > cap + 5e-11 + cap * 1e-15 and verdict == 0 then verdict = windows + quotas + 1 end
end

-- Lost counters are made anew by the first who looks for them: only then has the shard to be asked whether it is whole.
if is_fresh and call('EXISTS', keys[#keys]) == 0 then
    reply[1] = -2
    for i = 1, windows do call('RPOP', keys[1 + i]) end
    for i = 1, quotas do
        local key = keys[1 + windows + i]
        if call('DECRBY', key, args[base + 3 * i - 1]) == 0 then call('DEL', key) end
    end
    return reply
end

local is_shadow = args[5] == '2' or args[5] == '3'
if is_shadow then
    reply[#reply + 1] = verdict
    if verdict ~= 0 then  -- what would have been refused would not have filled a window; a quota it has used all the same
        for i = 1, windows do call('RPOP', keys[1 + i]) end
    end
elseif verdict ~= 0 then
    reply[1] = verdict
    for i = 1, windows do
        call('RPOP', keys[1 + i])
        reply[1 + 2 * i] = reply[1 + 2 * i] - 1
    end
    for i = 1, quotas do
        local quantity = args[base + 3 * i - 1]
        reply[2 + 2 * windows + i] = call('DECRBY', keys[1 + windows + i], quantity)
    end
    return reply
end

if idem then call('SET', marker, '1', 'EX', 86400) end
call('HSET', keys[1], args[1], args[2])
return reply
