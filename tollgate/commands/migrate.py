"""`tollgate migrate`: bring the database to this release's schema. Safe to run again, and by several at once."""

from __future__ import annotations

import argparse
import asyncio

from tollgate.commands import add_settings_option, load_settings, require_postgres


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("migrate", help="bring the database to this release's schema")
    add_settings_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the name of each migration applied now. Raises UserError."""
    from tollgate.database import migrate

    applied = asyncio.run(migrate(require_postgres(load_settings(args).settings)))
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("nothing to apply")
    return 0
