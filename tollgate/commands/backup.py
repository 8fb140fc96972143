"""`tollgate backup`: the whole ledger as one file, as of one moment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tollgate.commands import UserError
from tollgate.target import add_target_options, on_database

if TYPE_CHECKING:
    import asyncpg


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("backup", help="write the ledger to a file")
    parser.add_argument("file", type=Path, help="to be made; it holds all the database holds: guard it")
    add_target_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was written. Raises UserError."""
    from ledger.backup import Backup, BackupError, backup

    async def work(connection: asyncpg.Connection) -> Backup:
        try:
            return await backup(connection, args.file)
        except OSError as error:
            if error.filename is None:  # the connection's
                raise
            raise UserError(f"cannot write {args.file}: {error.strerror}") from None

    try:
        made = on_database(args, work)
    except BackupError as error:
        raise UserError(str(error)) from None
    print(
        f"{args.file}: {sum(made.rows.values())} rows of {len(made.rows)} tables, as of {made.made_at:%Y-%m-%d %H:%M:%SZ}"
    )
    return 0
