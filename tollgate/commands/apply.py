"""`tollgate apply`: make the database agree with a declaration file, all or nothing."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from tollgate.commands import UserError
from tollgate.target import ACTOR, add_target_options, on_database, vault_of

if TYPE_CHECKING:
    import asyncpg

    from admin.changes import Change, Refused
    from admin.declare.source import Source


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "apply",
        help="declare projects, tiers, customers, upstreams and routes from a file",
        description="Make the database agree with a declaration file, in one transaction. What exists and is not in the"
        " file stays, unless --prune is given. config/example.yaml is a commented example.",
    )
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="the declaration; - reads standard input")
    parser.add_argument("--dry-run", action="store_true", help="print the difference and change nothing")
    parser.add_argument(
        "--prune",
        action="store_true",
        help="also delete routes, upstreams, issuers and tiers of the declared projects that are not in the file",
    )
    add_target_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the difference that was made. Raises UserError, having changed nothing."""
    from admin.changes import Refused
    from admin.declare import DeclarationError, apply, filled_in, show
    from admin.declare.load import check
    from admin.declare.source import read
    from admin.projects import rows as projects

    name = "standard input" if args.file == "-" else args.file
    try:
        source = read(_bytes(args.file), name)
        declaration = filled_in(check(source, name), os.environ, source, name)
    except DeclarationError as error:
        raise UserError(str(error)) from None

    vault = vault_of(args)

    async def work(connection: asyncpg.Connection) -> tuple[list[Change], dict[str, str]]:
        try:
            changes = await apply(
                connection, declaration, actor=ACTOR, dry_run=args.dry_run, prune=args.prune, vault=vault
            )
        except Refused as refused:
            raise UserError(_placed(refused, source, name)) from None
        return changes, {project.id: project.name for project in await projects.page(connection, None, None)}

    changes, names = on_database(args, work)
    print(show(changes, names))
    if args.dry_run and changes:
        print("Dry run: nothing was changed.")
    return 0


def _bytes(file: str) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read()
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _placed(refused: Refused, source: Source, name: str) -> str:
    """What was refused, with its place in the file."""
    from admin.declare.faults import Fault, path_text

    _, (line, column) = source.tree.find(refused.path)
    return f"{name}:{Fault(line, column, path_text(refused.path), refused.message)}"
