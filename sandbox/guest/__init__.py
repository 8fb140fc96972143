"""What runs inside a jail or container: `guest.py` (PID 1) and `guest.cjs` (the side of it in Node). Not imported here.

The wire, on the guest's standard streams. Lengths are 4 bytes, big-endian; a *list* is items of length and bytes.

    stdin   the length of a list, the list (the job), then what the submitted code reads as its standard input
    stdout  the code's standard output
    stderr  one READY byte, Node's own where it is Node's job; the code's standard error; and when it has ended and
            nothing of it lives any more, the 16-byte nonce from the job, the length of a list, the list (how it ended, and
            the files it left)

The guest runs with the same rights as the submitted code, so nothing it says is believed where it matters: figures come
from the cgroup, and what it packs is parsed outside as bytes, with caps.
"""
