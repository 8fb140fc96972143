-- Admit one request against limits on what is under way at once, and then against all others, or none of them.
--
-- KEYS  those of admit.lua | each set of places (ids of what is under way)
-- ARGV  those of admit.lua | per set of places its limit | number of sets
-- Reply that of admit.lua; verdict -3: all places are taken; the reply then ends with which set's (from 1).
--       In shadow mode -3 is what there would have been.
--
-- A place is left by whoever settles the reservation, in the same step: so a set holds an id exactly as long as there is a
-- reservation that names it, and what a dead gateway had under way leaves when the sweeper resolves it.
local function admit()
    --admit.lua
end

local count, is_empty, full = tonumber(table.remove(ARGV)), false, nil
local places = {}
for i = count, 1, -1 do
    places[i] = table.remove(KEYS)
    local taken, limit = redis.call('SCARD', places[i]), tonumber(table.remove(ARGV))
    if taken == 0 then is_empty = true end
    if taken >= limit then full = i end
end
-- a set that is empty may be one that was lost
if is_empty and redis.call('EXISTS', KEYS[#KEYS]) == 0 then return {-2, 0} end

local is_shadow = ARGV[5] == '2' or ARGV[5] == '3'
if full and not is_shadow then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local windows, quotas = tonumber(ARGV[3]), tonumber(ARGV[4])
    local reply = {-3, now}
    for i = 1, windows do
        reply[1 + 2 * i] = redis.call('LLEN', KEYS[1 + i])
        reply[2 + 2 * i] = now
    end
    for i = 1, quotas do
        reply[2 + 2 * windows + i] = tonumber(redis.call('GET', KEYS[1 + windows + i]) or 0)
    end
    reply[#reply + 1] = full
    return reply
end

local reply = admit()
if reply[1] == 0 then
    for i = 1, count do redis.call('SADD', places[i], ARGV[1]) end
    if full and reply[#reply] == 0 then reply[#reply] = -3 end
end
return reply
