"""`tollgate config`: the effective settings as a table, each with its origin. Secrets are masked."""

from __future__ import annotations

import argparse

from tollgate.commands import add_settings_option, load_settings


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("config", help="print the effective settings and where each came from")
    add_settings_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print SETTING, VALUE and ORIGIN of every setting. Raises UserError when the settings are wrong."""
    from config.load import displayed, values

    loaded = load_settings(args)
    rows = [("SETTING", "VALUE", "ORIGIN")]
    rows += [(path, displayed(value), loaded.origins[path]) for path, value in values(loaded.settings).items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for path, value, origin in rows:
        print(f"{path:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
    return 0
