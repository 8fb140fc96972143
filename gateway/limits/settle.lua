-- Settle a batch of requests: give the reservation back, correct the quotas it held, put the usage event on the stream.
--
-- KEYS  per entry: reservations (hash), usage stream, then each quota counter to correct
-- ARGV  per entry: event id, event ('' = none: the request was never served), number of corrections, deltas
--       (delta '': the key is a set of places, and the request leaves its own)
--       (number -1: no corrections, and the event only if the reservation was still held)
--
-- An entry may be sent twice (its reply was lost). Corrections happen only if the reservation was still held, so they
-- happen once; the event may then be on the stream twice, and the ledger stores an event id once.
local k, a = 1, 1
while ARGV[a] do
    local held = redis.call('HDEL', KEYS[k], ARGV[a])
    local corrections, only_if_held = tonumber(ARGV[a + 2]), false
    if corrections < 0 then corrections, only_if_held = 0, true end
    if held == 1 then
        for i = 1, corrections do
            if ARGV[a + 2 + i] == '' then
                redis.call('SREM', KEYS[k + 1 + i], ARGV[a])
            else
                -- a counter that has expired since is left in peace: made anew it would be below zero, and for ever
                -- and one that is beyond all measure would overflow, which would hold up everybody's settlements
                local used = tonumber(redis.call('GET', KEYS[k + 1 + i]))
                if used and used < 4e18 then redis.call('INCRBY', KEYS[k + 1 + i], ARGV[a + 2 + i]) end
            end
        end
    end
    if ARGV[a + 1] ~= '' and (held == 1 or not only_if_held) then
        redis.call('XADD', KEYS[k + 1], '*', 'e', ARGV[a + 1])
    end
    k = k + 2 + corrections
    a = a + 3 + corrections
end
return 1
