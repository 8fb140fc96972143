"""The code runner: executes submitted Python and Node in single-use jails and reports what each run cost.

Nouns: a *run* is one execution of submitted code; a *guest* is a prepared interpreter inside a jail, waiting for its one
run; a *backend* makes guests (`jail`: bubblewrap, cgroups and slot uids on this machine; `docker`: containers of an
Engine). The plane knows nothing of keys, tiers or money: the gateway says whose run it is, and reads `usage` from the
reply. It holds no credential of the control plane and imports only config.

Where no backend is safe here, the plane starts, says at /ready what has to be installed, and refuses to run code.
"""
