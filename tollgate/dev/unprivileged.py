"""Whom PostgreSQL runs as. It refuses to be root, in which case we run it as somebody else.

That is the owner of its data where there are any, else `nobody`. Such a user cannot pass directories closed to others,
so a clone below a 0700 home would not work: setpriv (util-linux) leaves it the one capability that opens them.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tollgate.dev.server import EmbeddedError

_SETPCAP, _READ_SEARCH, _OVERRIDE = 1 << 8, 1 << 2, 1 << 1


@dataclass(frozen=True, slots=True)
class Runner:
    """The command to put before a program, and the (uid, gid) its files must belong to; None: ourselves."""

    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None


def runner_for(data: Path) -> Runner:
    """How to run a program that refuses to be root. Raises EmbeddedError where there is no way."""
    if os.geteuid() != 0:
        return Runner()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedError(
            "PostgreSQL refuses to run as root and there is no setpriv (util-linux) to run it as another user:"
            " install it, start as another user, or set TOLLGATE_POSTGRES_URL"
        )
    nobody = pwd.getpwnam("nobody")
    uid, gid = nobody.pw_uid, nobody.pw_gid
    if data.exists() and data.stat().st_uid:
        uid, gid = data.stat().st_uid, data.stat().st_gid
    prefix = [setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--pdeathsig=INT"]
    if capability := _searching_capability():
        # access(2), which initdb calls, ignores capabilities of users other than root unless no_setuid_fixup is set.
        prefix += [f"--inh-caps=-all,+{capability}", f"--ambient-caps=+{capability}", "--securebits=+no_setuid_fixup"]
    return Runner(tuple(prefix), (uid, gid))


def _searching_capability() -> str | None:
    """The least capability we have that opens other users' directories; Docker's default set lacks the first."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    have = int(match[1], 16) if match else 0
    if not have & _SETPCAP:  # securebits need it
        return None
    if have & _READ_SEARCH:
        return "dac_read_search"
    return "dac_override" if have & _OVERRIDE else None
