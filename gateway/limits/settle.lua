-- Settle a batch of requests: give the reservation back, correct the quotas it held, put the usage event on the stream.
--
-- KEYS  per entry: reservations (hash), usage stream, then each quota counter to correct
-- ARGV  per entry: event id, event ('' = none: the request was never served), number of corrections, deltas
--       (delta '': the key is a set of places, and the request leaves its own)
--       (number -1: no corrections, and the event only if the reservation was still held)
--
-- An entry may be sent twice (its reply was lost). Corrections happen only if the reservation was still held, so they
-- happen once; the event may then be on the stream twice, and the ledger stores an event id once.
local keys, args, call = KEYS, ARGV, redis.call
local k, a = 1, 1
while args[a] do
    local held = call('HDEL', keys[k], args[a])
    local corrections, only_if_held = tonumber(args[a + 2]), false
    if corrections < 0 then corrections, only_if_held = 0, true end
    if held == 1 then
        for i = 1, corrections do
            if args[a + 2 + i] == '' then
                call('SREM', keys[k + 1 + i], args[a])
            else
                -- a counter that has expired since is left in peace: made anew it would be below zero, and for ever
                -- and one that is beyond all measure would overflow, which would hold up everybody's settlements
                local used = tonumber(call('GET', keys[k + 1 + i]))
                if used and used < 4e18 then call('INCRBY', keys[k + 1 + i], args[a + 2 + i]) end
            end
        end
    end
    if args[a + 1] ~= '' and (held == 1 or not only_if_held) then
        call('XADD', keys[k + 1], '*', 'e', args[a + 1])
    end
    k = k + 2 + corrections
    a = a + 3 + corrections
end
return 1
