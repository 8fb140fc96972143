-- Apply what a gateway spooled while Redis was away, each record exactly once and in order.
--
-- KEYS  per record: the shard's epoch, applied (hash: spool id → number of its last record applied here), reservations
--         (hash), then
--         settle: usage stream, each quota counter to correct
--         hold:   each sliding window, each quota counter, each set of places
-- ARGV  per record: spool id, number, then
--         settle: 's', event id, event ('' = none), number of corrections (see settle.lua), deltas
--         hold:   'h', event id, reservation (JSON), admitted at (Unix ms), number of windows, number of quotas,
--                 number of sets of places, per window its length in ms, per quota quantity and end of period (Unix s)
-- Reply number of records that were new
--
-- A hold is a request that was admitted without Redis: it is counted whatever the limits say, as if it had come then.
-- While the shard's counters are lost it is only held: whoever rebuilds them counts what is held (ledger/heal.py). Its
-- place it takes all the same: sets of places are whole once everybody has told what is under way.
local k, a, fresh = 1, 1, 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
while ARGV[a] do
    local is_known = redis.call('EXISTS', KEYS[k]) == 1
    k = k + 1
    local number = tonumber(ARGV[a + 1])
    local last = tonumber(redis.call('HGET', KEYS[k], ARGV[a]) or 0)
    local is_new, kind, id = number > last, ARGV[a + 2], ARGV[a + 3]
    if is_new then
        fresh = fresh + 1
        redis.call('HSET', KEYS[k], ARGV[a], ARGV[a + 1])
        redis.call('EXPIRE', KEYS[k], '2592000')
    end
    if kind == 's' then
        local corrections, only_if_held = tonumber(ARGV[a + 5]), false
        if corrections < 0 then corrections, only_if_held = 0, true end
        if is_new then
            local held = redis.call('HDEL', KEYS[k + 1], id)
            for i = 1, corrections do
                if ARGV[a + 5 + i] == '' then
                    if held == 1 then redis.call('SREM', KEYS[k + 2 + i], id) end
                else
                    local used = held == 1 and tonumber(redis.call('GET', KEYS[k + 2 + i]))
                    if used and used < 4e18 then redis.call('INCRBY', KEYS[k + 2 + i], ARGV[a + 5 + i]) end
                end
            end
            if ARGV[a + 4] ~= '' and (held == 1 or not only_if_held) then
                redis.call('XADD', KEYS[k + 2], '*', 'e', ARGV[a + 4])
            end
        end
        k = k + 3 + corrections
        a = a + 6 + corrections
    else
        local at, windows, quotas = tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7])
        local places = tonumber(ARGV[a + 8])
        if at > now then at = now end
        if is_new then
            for i = 1, places do redis.call('SADD', KEYS[k + 1 + windows + quotas + i], id) end
        end
        -- an admission whose verdict came too late may have counted it already
        if is_new and redis.call('HSETNX', KEYS[k + 1], id, ARGV[a + 4]) == 1 and is_known then
            for i = 1, windows do
                local key, length = KEYS[k + 1 + i], tonumber(ARGV[a + 8 + i])
                -- lists stay in order: what was admitted since pushes this one later, never earlier
                local newest = tonumber(redis.call('LINDEX', key, '-1') or 0)
                local counted_at = at > newest and at or newest
                if counted_at > now - length then
                    redis.call('RPUSH', key, counted_at)
                    redis.call('PEXPIRE', key, 2 * length)
                end
            end
            for i = 1, quotas do
                local key, quantity = KEYS[k + 1 + windows + i], ARGV[a + 7 + windows + 2 * i]
                if redis.call('INCRBY', key, quantity) == tonumber(quantity) then
                    redis.call('EXPIREAT', key, ARGV[a + 8 + windows + 2 * i] + 604800)
                end
            end
        end
        k = k + 2 + windows + quotas + places
        a = a + 9 + windows + 2 * quotas
    end
end
return fresh
