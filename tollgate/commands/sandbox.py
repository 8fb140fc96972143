"""`tollgate sandbox`: run the code runner in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse

from tollgate.commands import add_settings_option, load_settings


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("sandbox", help="run the plane that runs submitted code")
    add_settings_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns when the plane has stopped in order. Raises UserError when the settings are wrong."""
    settings = load_settings(args).settings

    from config.log import setup
    from sandbox.app import main

    setup(settings, "sandbox")
    main(settings)
    return 0
