"""`tollgate export`: print what is declared, in the form `tollgate apply` reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tollgate.commands import UserError
from tollgate.target import add_target_options, on_database


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "export",
        help="print what is declared, in the form apply reads",
        description="Print what is declared as YAML. Keys are not part of it, nor customers only seen at a gateway.",
    )
    parser.add_argument("--project", metavar="NAME", help="this project alone (default: all)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to a file instead")
    add_target_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print or write the YAML. Raises UserError."""
    from admin.declare import export

    text = on_database(args, lambda connection: export(connection, args.project))
    if args.output is None:
        sys.stdout.write(text)
        return 0
    try:
        args.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {args.output}: {error.strerror}") from None
    return 0
