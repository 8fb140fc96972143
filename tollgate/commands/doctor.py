"""`tollgate doctor`: look at everything a deployment stands on. Status 1 if something is wrong."""

from __future__ import annotations

import argparse
import asyncio

from tollgate.commands import add_settings_option, load_settings


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor", help="check PostgreSQL, Redis, the spool, clocks, settings and the code runner"
    )
    add_settings_option(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if a check failed, else 0. Raises UserError when the settings cannot be read."""
    import logging

    import orjson

    from tollgate.doctor.findings import Status, as_json, as_text, worst
    from tollgate.doctor.look import look

    logging.getLogger("sandbox").addHandler(logging.NullHandler())  # what its backends say is in the report
    found = asyncio.run(look(load_settings(args).settings))
    print(orjson.dumps(as_json(found), option=orjson.OPT_INDENT_2).decode() if args.json else as_text(found))
    return 1 if worst(found) is Status.FAIL else 0
