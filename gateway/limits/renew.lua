-- Settle one part of a long request and hold what the next part may use, in one step.
--
-- KEYS  1 reservations (hash) | 2 usage stream | each quota counter to correct | each quota counter to hold from |
--       each priced meter's counter | last the shard's epoch
-- ARGV  1 id of the part that ends | 2 its event | 3 number of corrections | deltas ('': the key is a set of places, and
--       the next part takes the one that the ending part had) |
--       id of the next part | its reservation (JSON) up to what it holds | the rest of it, as a format of the quantities,
--       twice | number of quotas | per quota: limit (-1 = none), least, most, end of period (Unix s)
--       with a spend cap: number of priced meters, cap, per priced meter: included, price of a unit beyond it (see admit.lua)
-- Reply {verdict, per quota: quantity held}; verdict 0, or the number of the quota of which not even `least` was left,
--       one more than there are quotas if `least` of all would cost more than the cap, -2 unknown: the counters were lost,
--       and nothing was changed
--
-- The next part is always held, with nothing where the verdict is not 0, so that it can be settled in any case. Asked
-- again (the reply was lost) the script changes nothing and answers the same; the event may then be on the stream twice,
-- and the ledger stores an event id once.
if redis.call('EXISTS', KEYS[#KEYS]) == 0 then return {-2} end
local corrections = tonumber(ARGV[3])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
    for i = 1, corrections do
        if ARGV[3 + i] ~= '' then
            local used = tonumber(redis.call('GET', KEYS[2 + i]))
            if used and used < 4e18 then redis.call('INCRBY', KEYS[2 + i], ARGV[3 + i]) end
        end
    end
end
redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])

local a, k = 3 + corrections, 2 + corrections
local before = redis.call('HGET', KEYS[1], ARGV[a + 1])
if before then
    local held = cjson.decode(before)
    local reply = {held.refused}
    for i, hold in ipairs(held.hold) do reply[1 + i] = hold[2] end
    return reply
end

local quotas = tonumber(ARGV[a + 4])
local verdict, granted = 0, {}
for i = 1, quotas do
    local at = a + 1 + 4 * i
    local limit, least, most = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    granted[i] = most
    if limit >= 0 then
        local left = limit - tonumber(redis.call('GET', KEYS[k + i]) or '0')
        if left < least then
            if verdict == 0 then verdict = i end
        elseif left < most then
            granted[i] = left < 0 and 0 or left
        end
    end
end
local at = a + 5 + 4 * quotas
if ARGV[at] and verdict == 0 then
    local priced, cap = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    local function is_too_much()
        local more, spent = {}, 0
        for i = 1, quotas do more[KEYS[k + i]] = (more[KEYS[k + i]] or 0) + granted[i] end
        for i = 1, priced do
            local key = KEYS[#KEYS - priced - 1 + i]
            local used = tonumber(redis.call('GET', key) or '0') + (more[key] or 0)
            local beyond = used - tonumber(ARGV[at + 2 * i])
            if beyond > 0 then spent = spent + beyond * tonumber(ARGV[at + 1 + 2 * i]) end
        end
        return spent > cap + 5e-11 + cap * 1e-15
    end
    if is_too_much() then
        for i = 1, quotas do granted[i] = tonumber(ARGV[a + 2 + 4 * i]) end
        if is_too_much() then verdict = quotas + 1 end
    end
end
for i = 1, quotas do
    if verdict ~= 0 then granted[i] = 0 end
    local quantity = string.format('%d', granted[i])
    if redis.call('INCRBY', KEYS[k + i], quantity) == granted[i] then
        redis.call('EXPIREAT', KEYS[k + i], string.format('%d', ARGV[a + 4 + 4 * i] + 604800))
    end
end
for i = 1, corrections do
    if ARGV[3 + i] == '' then
        redis.call('SREM', KEYS[2 + i], ARGV[1])
        redis.call('SADD', KEYS[2 + i], ARGV[a + 1])
    end
end
local twice = {}
for i = 1, quotas do twice[i], twice[quotas + i] = granted[i], granted[i] end
local rest = string.format(ARGV[a + 3], unpack(twice))
redis.call('HSET', KEYS[1], ARGV[a + 1], ARGV[a + 2] .. string.format('"refused":%d,', verdict) .. rest)
return {verdict, unpack(granted)}
