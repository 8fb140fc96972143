-- What a capable team would write for keys, a minute limit, a monthly quota and usage events in nginx with Redis.
--
-- Keys are cached in a shared dict (found: 60 s, unknown: 10 s); the dict's flags hold the tier's number. Each request
-- costs one EVALSHA over a kept-alive cosocket (limit.lua); a customer over its minute limit is refused from memory until
-- the minute ends. `settings` is written by the benchmark: address and password of Redis, the tiers, the script.
--
-- Tuned with a profiler: evalsha in a function of its own makes LuaJIT compile side traces without end (20 us more per
-- request); an id from ngx.var.request_id costs 4 us of OpenSSL's random bytes; limits are strings already.
local redis = require "nginx.redis"
local settings = require "settings"

local keys = ngx.shared.keys
local tiers = settings.tiers
local sub, byte, floor = string.sub, string.byte, math.floor
local UNKNOWN = 0 -- as flags: no tier has this number

-- What holds for all requests of one minute. One worker, so its own memory will do; bounded by customers in a minute.
local minute, month = 0, ""
local worker, serial = "", 0 -- make ids of events
local refused = {}

local function turn_minute(now)
    minute = floor(now / 60)
    month = os.date("!%Y-%m", now)
    worker = ngx.worker.pid() .. "-" .. now .. "-"
    refused = {}
end

local function connect()
    local connection = redis:new()
    local is_connected = connection:connect("127.0.0.1", settings.port)
    if not is_connected then return nil end
    if connection:get_reused_times() == 0 and not connection:auth(settings.password) then return nil end
    return connection
end

local function refuse(status, code, name, value)
    ngx.status = status
    ngx.header[name] = value
    ngx.header["Content-Type"] = "application/json"
    ngx.print('{"error":"', code, '"}')
    return ngx.exit(ngx.HTTP_OK)
end

local function unauthorized()
    return refuse(401, "unauthorized", "WWW-Authenticate", "Bearer")
end

local function unavailable()
    return refuse(503, "unavailable", "Retry-After", "1")
end

-- The customer and tier number of a key that is not cached. In Redis: HASH keys, field = key, value = "tier customer".
local function look_up(connection, key)
    local found = connection:hget("keys", key)
    if not found then return nil end
    if found == ngx.null then
        keys:set(key, "", 10, UNKNOWN)
        return "", UNKNOWN
    end
    local tier, customer = found:match("^(%d+) (.*)$")
    tier = tonumber(tier)
    keys:set(key, customer, 60, tier)
    return customer, tier
end

local gate = {}

function gate.admit()
    local now = ngx.time()
    if floor(now / 60) ~= minute then turn_minute(now) end

    local header = ngx.var.http_authorization
    if not header or sub(header, 1, 7) ~= "Bearer " or byte(header, 8) == nil then return unauthorized() end
    local key = sub(header, 8)
    local connection
    local customer, tier_number = keys:get(key)
    if customer == nil then
        connection = connect()
        if not connection then return unavailable() end
        customer, tier_number = look_up(connection, key)
        if customer == nil then return unavailable() end
    end
    if (tier_number or UNKNOWN) == UNKNOWN then
        if connection then connection:set_keepalive(60000, 256) end
        return unauthorized()
    end
    if refused[customer] then
        if connection then connection:set_keepalive(60000, 256) end
        return refuse(429, "rate_limited", "Retry-After", (minute + 1) * 60 - now)
    end

    connection = connection or connect()
    if not connection then return unavailable() end
    local tier = tiers[tier_number]
    serial = serial + 1
    local event = '{"id":"' .. worker .. serial .. '","at":' .. floor(ngx.now() * 1000) .. ',"project":"prj_bench",'
        .. '"mode":"test","customer":"' .. customer .. '","route":"bench","method":"' .. ngx.var.request_method
        .. '","meters":{"requests":1}}'
    local verdict, why = connection:evalsha(settings.sha, 3, "m:" .. customer .. ":" .. minute,
        "q:" .. customer .. ":" .. month, "usage", tier.per_minute, tier.quota, event)
    if not verdict and why and sub(why, 1, 8) == "NOSCRIPT" then
        verdict = connection:eval(settings.script, 3, "m:" .. customer .. ":" .. minute,
            "q:" .. customer .. ":" .. month, "usage", tier.per_minute, tier.quota, event)
    end
    if not verdict then return unavailable() end
    connection:set_keepalive(60000, 256)
    if verdict == 1 then
        refused[customer] = true
        return refuse(429, "rate_limited", "Retry-After", (minute + 1) * 60 - now)
    elseif verdict == 2 then
        return refuse(429, "quota_exceeded", "Retry-After", 3600)
    end
end

return gate
