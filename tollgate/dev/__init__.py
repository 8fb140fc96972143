"""The all-in-one development stack: real servers from wheels, planes and demo upstream under one supervisor.

`guard` lets no child outlive whoever started it, `child` starts things under a guard, `embedded` runs PostgreSQL and
Redis that way, `supervisor` keeps the whole stack up and stops it in order.
"""
