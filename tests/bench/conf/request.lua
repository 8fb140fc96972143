-- wrk's script: sends the raw requests of the file named in BENCH_REQUESTS in turn (each after a line with its length),
-- and prints one line of figures that tests/bench/closed_loop.py reads. A single request is handed over once, not per send.
local requests, at = {}, 0
local file = assert(io.open(os.getenv("BENCH_REQUESTS"), "rb"))
for line in file:lines() do
    requests[#requests + 1] = file:read(tonumber(line))
end
file:close()

if #requests == 1 then
    wrk.format = function() return requests[1] end
else
    request = function()
        at = at % #requests + 1
        return requests[at]
    end
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format("FIGURES %d %d %d %d %d %d %d", summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
