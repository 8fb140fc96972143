"""Starting an upstream as a child process, and ending it with certainty.

The child prints one JSON line, `{"port": 12345}`, when it listens, and exits when its standard input ends: a test
process that is killed takes its upstreams along. Fails with the child's own output when it does not come up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[3]
_START_DEADLINE_S: Final = 20


class NotStarted(Exception):
    """The child ended or stayed silent instead of announcing its port; the message holds what it printed."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running origin. `url` has no trailing slash."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the child and wait for it; safe to call twice."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(module: str, *arguments: str, environment: dict[str, str] | None = None) -> Upstream:
    """Run `python -m tests.support.upstreams.<module>` and wait for its port. Raises NotStarted."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.support.upstreams.{module}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    giving_up = threading.Timer(_START_DEADLINE_S, process.kill)
    giving_up.start()
    try:
        line = process.stdout.readline()
    finally:
        giving_up.cancel()
        giving_up.join()
    try:
        return Upstream(int(json.loads(line)["port"]), process)
    except (ValueError, KeyError):
        process.kill()
        process.wait()
        raise NotStarted(
            f"{module} announced {line!r} instead of its port (exit status {process.returncode})"
        ) from None


def announce(port: int) -> None:
    """Called by the child once it listens."""
    print(json.dumps({"port": port}), flush=True)


def exit_with_parent() -> None:
    """Called by the child: end it at once when whoever started it is gone."""

    def watch() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
