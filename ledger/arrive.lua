-- Somebody has connected. If this Redis is another process than last time (restart, fail-over), its counters may lack what
-- was acknowledged just before: nothing is known of them until they were rebuilt.
--
-- KEYS  1 the process that the epochs were made under | then each shard's epoch
-- Reply the process
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('GET', KEYS[1]) == run then return run end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('SET', KEYS[1], run)
return run
