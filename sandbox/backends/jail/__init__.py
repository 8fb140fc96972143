"""Single-use jails on this machine: bubblewrap, a seccomp filter, a cgroup and a uid of its own for every run.

`broker` is the only part with privileges: a small process that starts jails and reads their cgroups, so that the
service's loop never forks. `bwrap` decides the command line, `cgroups` limits and accounts, `backend` is what the rest
of the plane sees: it keeps warm guests and hands each of them one job.
"""
