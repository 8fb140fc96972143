"""The commands of `tollgate`, one module each: `register(subparsers)` declares the arguments, `run(args)` does it.

A command returns its exit status. What the user can put right is a UserError: one line on standard error, status 1.
A command's module is imported only when it is used, and should import what is heavy inside `run`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.load import Loaded
    from config.settings import Settings


class UserError(Exception):
    """Something the user can put right. The message is one line without secrets that says what and how."""


def add_settings_option(parser: argparse.ArgumentParser) -> None:
    """Let a command be told which settings file to read."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings file (default: $TOLLGATE_CONFIG, else ./tollgate.toml)"
    )


def load_settings(args: argparse.Namespace, overrides: Mapping[str, Any] | None = None) -> Loaded:
    """The settings of this process, with their origins. Raises UserError.

    `overrides` are dotted paths set by the command line. The file is --config, else $TOLLGATE_CONFIG, else
    ./tollgate.toml where there is one.
    """
    from config.load import DEFAULT_FILE, FILE_VARIABLE, SettingsError, load

    file: Path | None = getattr(args, "config", None)
    if file is None and (named := os.environ.get(FILE_VARIABLE)):
        file = Path(named)
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    try:
        return load(file, os.environ, overrides or {})
    except SettingsError as error:
        raise UserError(str(error)) from None


def require_postgres(settings: Settings) -> str:
    """The database's URL. Raises UserError where it is not set."""
    if settings.postgres_url is None:
        raise UserError(
            "no database: set TOLLGATE_POSTGRES_URL (or postgres_url in tollgate.toml), or use `tollgate dev`"
        )
    return settings.postgres_url.get_secret_value()


def require_redis(settings: Settings) -> str:
    """The URL of Redis. Raises UserError where it is not set."""
    if settings.redis_url is None:
        raise UserError("no Redis: set TOLLGATE_REDIS_URL (or redis_url in tollgate.toml), or use `tollgate dev`")
    return settings.redis_url.get_secret_value()
