"""The guest itself: it must never be at large, because it ends by killing all it can see."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from sandbox.backends.jail.backend import GUEST_FILES


def test_outside_of_a_jail_it_refuses_to_run() -> None:
    """In a pid namespace, so that a guest that does run reaches nothing of this machine; a shell is its PID 1."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare")
    guest = f"/usr/bin/python3 -I -S {GUEST_FILES}/guest.py python; exit $?"
    ended = subprocess.run(
        [unshare, "--pid", "--fork", "--kill-child", "sh", "-c", guest], input=b"", capture_output=True, timeout=30
    )
    assert ended.returncode == 1
    assert ended.stderr == b"the guest runs only as PID 1 of a jail or container\n"
