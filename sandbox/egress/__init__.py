"""The only way out of a jail: a proxy for each run, on a unix socket that is mounted into it.

The jail keeps its empty network namespace. Inside, the guest's relay answers names with loopback addresses and hands
connections to their ports to the proxy, so any program works unchanged; outside, `proxy` decides by name and address
(`policy`), connects to exactly the address it decided about, counts bytes, and notes what it refused.
"""
