"""`tollgate admin`: run the control plane in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse

from tollgate.commands import add_settings_option, load_settings, require_postgres, require_redis


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("admin", help="run the control plane")
    add_settings_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns when the plane has stopped in order. Raises UserError when the settings are wrong."""
    settings = load_settings(args).settings
    require_postgres(settings)
    require_redis(settings)

    from admin.app import main
    from config.log import setup

    setup(settings, "admin")
    main(settings)
    return 0
