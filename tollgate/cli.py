"""The `tollgate` command line: finds the command, runs it, and turns errors into one line and an exit status.

Status 0 is success, 1 an error the user can put right, 2 a wrong command line, 130 Ctrl-C. A bug keeps its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from tollgate.commands import UserError

COMMANDS: Final = (
    ("dev", "run everything in one terminal: PostgreSQL, Redis, gateway, admin, worker, a demo"),
    ("gateway", "run the data plane"),
    ("admin", "run the control plane"),
    ("worker", "run the process that keeps the books"),
    ("sandbox", "run the plane that runs submitted code"),
    ("migrate", "bring the database to this release's schema"),
    ("doctor", "check PostgreSQL, Redis, the spool, clocks, settings and the code runner"),
    ("config", "print the effective settings and where each came from"),
    ("apply", "declare projects, tiers, customers, upstreams and routes from a file"),
    ("export", "print what is declared, in the form apply reads"),
    ("keys", "create, list, revoke and rotate API keys"),
    ("secrets", "make encryption keys, and seal stored credentials anew"),
    ("billing", "what is told to Stripe, and how it stands"),
    ("reconcile", "compare events, rollups, billing, Stripe and counters"),
    ("dead-letters", "usage and billing entries that were put aside"),
    ("backup", "write the ledger to a file"),
    ("restore", "fill an empty database from a backup"),
    ("archive", "old months of events in compressed files"),
    ("stripe-fake", "run a stateful Stripe for tests"),
)
"""Name and summary. The module of the same name is imported when the command is used, so `--help` is quick."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="tollgate", description="A self-hosted metering gateway.")
    parser.add_argument("--version", action="version", version=_version() if "--version" in argv else "")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    module = None
    for name, summary in COMMANDS:
        if argv and argv[0] == name:
            module = importlib.import_module(f"tollgate.commands.{name.replace('-', '_')}")
            module.register(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    args = parser.parse_args(argv)
    if module is None:
        parser.error("the command comes first")
    try:
        status: int = module.run(args)
        sys.stdout.flush()
    except UserError as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _version() -> str:
    from importlib.metadata import version

    return f"tollgate {version('tollgate')}"


if __name__ == "__main__":
    sys.exit(main())
