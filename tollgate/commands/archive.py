"""`tollgate archive`: months of events in compressed files: list them, make them now, bring one back."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tollgate.commands import UserError, load_settings
from tollgate.target import add_target_options, on_database

if TYPE_CHECKING:
    import asyncpg


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("archive", help="old months of events in compressed files")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    list_ = actions.add_parser("list", help="the months that live in files")
    run_ = actions.add_parser("run", help="archive what is old enough now (the worker does so by itself if set up)")
    run_.add_argument("--directory", type=Path, help="default: worker.archive_directory")
    run_.add_argument("--after-months", type=int, metavar="N", help="default: worker.archive_after_months")
    back = actions.add_parser("bring-back", help="make an archived month a part of the ledger again")
    back.add_argument("name", metavar="usage_events_YYYY_MM")
    for action in (list_, run_, back):
        add_target_options(action)


def run(args: argparse.Namespace) -> int:
    """Print what was done. Raises UserError."""
    from ledger.archive import NotArchived

    try:
        print(on_database(args, lambda connection: _act(connection, args)))
    except NotArchived as error:
        raise UserError(str(error)) from None
    return 0


async def _act(connection: asyncpg.Connection, args: argparse.Namespace) -> str:
    from ledger import archive

    if args.action == "bring-back":
        one = await archive.bring_back(connection, args.name)
        return f"{one.name}: {one.events} events are back; {one.path} is left as it is"
    if args.action == "list":
        found = await archive.archives(connection)
    else:
        settings = load_settings(args).settings.worker
        directory = args.directory or settings.archive_directory
        after = args.after_months or settings.archive_after_months
        if directory is None or after is None:
            raise UserError(
                "say --directory and --after-months, or set worker.archive_directory and archive_after_months"
            )
        found = await archive.archive_due(connection, directory.absolute(), datetime.now(UTC), after)
    return "\n".join(f"{one.name}  {one.events} events  {one.path}" for one in found) or "There are none."
