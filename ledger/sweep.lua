-- Resolve the reservation of a request whose gateway is gone, unless somebody else has settled it.
--
-- KEYS  1 reservations (hash) | 2 usage stream | then each quota counter to correct
-- ARGV  1 event id | 2 event | then the corrections ('': the key is a set of places, and the request leaves its own)
-- Reply 1 if it was resolved now, 0 if it was gone already
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
for i = 3, #KEYS do
    if ARGV[i] == '' then
        redis.call('SREM', KEYS[i], ARGV[1])
    elseif redis.call('EXISTS', KEYS[i]) == 1 then
        redis.call('INCRBY', KEYS[i], ARGV[i])
    end
end
redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
return 1
