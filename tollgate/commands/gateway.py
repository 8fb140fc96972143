"""`tollgate gateway`: run the data plane in the foreground until SIGTERM or Ctrl-C; SIGHUP replaces its workers."""

from __future__ import annotations

import argparse

from tollgate.commands import UserError, add_settings_option, load_settings, require_postgres, require_redis


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("gateway", help="run the data plane")
    add_settings_option(parser)


def run(args: argparse.Namespace) -> int:
    """Returns when the plane has stopped in order. Raises UserError when the settings are wrong."""
    settings = load_settings(args).settings
    require_postgres(settings)
    require_redis(settings)

    from config.log import setup
    from gateway.app import StartError, main

    setup(settings, "gateway")
    try:
        main(settings, reload=lambda: load_settings(args).settings)
    except StartError as error:
        raise UserError(str(error)) from None
    return 0
