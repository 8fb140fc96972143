-- Remove the consumers of one stream's group that have been silent for longer than ARGV[2] ms and hold nothing.
-- KEYS: stream. ARGV: group, idle ms, the caller's own name. Returns how many were removed.
-- A script, because XGROUP DELCONSUMER also forgets what the consumer holds: between looking and deleting, a consumer
-- that only seemed dead could be handed entries that nobody would ever see again.
local removed = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local consumer = {}
    for i = 1, #flat, 2 do
        consumer[flat[i]] = flat[i + 1]
    end
    if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) and consumer.name ~= ARGV[3] then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
        removed = removed + 1
    end
end
return removed
