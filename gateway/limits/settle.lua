-- Settle a batch of requests: give the reservation back, correct the quotas it held, put the usage event on the stream.
--
-- KEYS  per entry: reservations (hash), usage stream, then each quota counter to correct
-- ARGV  per entry: event id, event ('' = none: the request was never served), number of corrections, deltas
--
-- An entry may be sent twice (its reply was lost). Corrections happen only if the reservation was still held, so they
-- happen once; the event may then be on the stream twice, and the ledger stores an event id once.
local k, a = 1, 1
while ARGV[a] do
    local held = redis.call('HDEL', KEYS[k], ARGV[a])
    local corrections = tonumber(ARGV[a + 2])
    if held == 1 then
        for i = 1, corrections do
            -- a counter that has expired since is left in peace: made anew it would be below zero, and for ever
            if redis.call('EXISTS', KEYS[k + 1 + i]) == 1 then
                redis.call('INCRBY', KEYS[k + 1 + i], ARGV[a + 2 + i])
            end
        end
    end
    if ARGV[a + 1] ~= '' then
        redis.call('XADD', KEYS[k + 1], '*', 'e', ARGV[a + 1])
    end
    k = k + 2 + corrections
    a = a + 3 + corrections
end
return 1
