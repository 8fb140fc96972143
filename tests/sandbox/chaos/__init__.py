"""Thousands of mixed runs through the whole stack while the sandbox is killed again and again; then its books are compared.

programs  what is run: honest, hostile, streamed, stopped, abandoned, refused; and what each says that it used
stack     PostgreSQL, Redis, gateway, worker and the sandbox as processes, each of which can be killed and started again
load      runs through the gateway, each of a customer of its own, and what became of each as its client saw it
kills     who is killed when: the seed decides
books     one event for each run that was accepted, with figures that the run's own measurement confirms; nothing left behind
__main__  all of it: `make chaos-sandbox RUNS=10000 SEED=1`

The measurement that the product's figures are held against is not the product's: programs ask the kernel for their own
account (getrusage: what tasks were charged, themselves and the children they waited for), while the product reads the run's
cgroup from outside; durations are taken by clocks of the program and of the client, and memory is what a program has
touched, or what it was killed for.
"""
