"""`make bench`: Tollgate beside the proxies people would use instead, measured side by side in one run.

Nouns. A *peer* is one proxy in front of the one *upstream* that all share, with one worker process or thread, and a Redis
of its own where it uses one, so that Redis' CPU can be told apart. A *case* is one kind of traffic. A *sample* is what one
peer did in one *round* of a case; within a round the peers follow each other, each round begins with another one, and
ratios are taken inside a round. Figures are medians over rounds.

Method. Closed loop: wrk, 1 thread, 64 keep-alive connections. Open loop: pace.c, a constant rate counted from the intended
departure, at 25 % and 50 % of what the peer reached in the closed loop; the latency of the bare upstream at the same rate
is subtracted. CPU is utime + stime of the peer's process tree divided by requests. Since load, upstream, peer and Redis
share the machine's cores, requests per second of a fast peer are those of the machine; CPU per request is the sounder
figure, and holds for the concurrency it was measured at: what batches its Redis commands gains with concurrency.

Honesty. Before anything is measured each peer must give the right answers, and count a known number of requests exactly:
so many admitted in Redis' counters, so many events on its stream. After each sample the same is checked, give or take what
wrk left in flight. Answers other than the expected are counted and shown. Tollgate's sliding windows are filled beforehand
as if the load had run for a minute already, so its samples contain the work of forgetting as well.
Not included in Tollgate's figures: its worker (Redis to PostgreSQL), which is not on the request's path and does not run.

Fails with one line and status 1 when a peer does not start, answers wrongly or miscounts. Leaves no process behind.
"""
