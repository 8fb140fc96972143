"""`tollgate restore`: fill an empty database from a backup."""

from __future__ import annotations

import argparse
from pathlib import Path

from tollgate.commands import UserError
from tollgate.target import add_target_options, on_database


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "restore",
        help="fill an empty database from a backup",
        description="Fill a database that `tollgate migrate` of the same release has just made: all of it, or nothing.",
    )
    parser.add_argument("file", type=Path, help="of `tollgate backup`")
    add_target_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print what came back. Raises UserError, having changed nothing."""
    from ledger.backup import BackupError, restore

    try:
        made = on_database(args, lambda connection: restore(connection, args.file))
    except BackupError as error:
        raise UserError(str(error)) from None
    print(
        f"{sum(made.rows.values())} rows of {len(made.rows)} tables are back, as of {made.made_at:%Y-%m-%d %H:%M:%SZ}"
    )
    return 0
