-- Put rebuilt counters in place of lost ones, and say that the shard is known again.
--
-- KEYS  1 epoch | 2 reservations (hash) | 3 usage stream | then each quota counter | each window | each counter to delete
-- ARGV  1 token | 2 number of reservations that were seen | 3 id of the stream's last entry that was seen ('' = none) |
--       4 number of quotas | 5 number of windows | 6 the Redis process that all of this was read from | per quota: value, end of its period (Unix s) |
--       per window: number of its times, the times (Unix ms, oldest first)
-- Reply 1 done, 0 something has changed since it was looked at: look again, -1 this is another process: begin again
if string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') ~= ARGV[6] then return -1 end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', '1')[1]
if redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[2]) or (last and last[1] or '') ~= ARGV[3] then return 0 end
local quotas, windows = tonumber(ARGV[4]), tonumber(ARGV[5])
local k, a = 4, 7
for _ = 1, quotas do
    redis.call('SET', KEYS[k], ARGV[a], 'EXAT', ARGV[a + 1] + 604800)
    k, a = k + 1, a + 2
end
for _ = 1, windows do
    local count = tonumber(ARGV[a])
    redis.call('DEL', KEYS[k])
    for i = 1, count do redis.call('RPUSH', KEYS[k], ARGV[a + i]) end
    redis.call('PEXPIRE', KEYS[k], '600000')
    k, a = k + 1, a + 1 + count
end
for i = k, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('SET', KEYS[1], ARGV[1])
return 1
