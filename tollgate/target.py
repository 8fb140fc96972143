"""The database that `apply`, `export` and `keys` work on, and running one piece of work on it.

It is the one the settings name; where they name none, that of a running `tollgate dev` (its dev.json).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tollgate.commands import UserError, add_settings_option, load_settings

if TYPE_CHECKING:
    import asyncpg

    from ledger.vault import Vault

T = TypeVar("T")

KEY_FILE: Final = "encryption.key"
"""In the state directory of `tollgate dev`."""
ACTOR: Final = "cli"
"""Who the audit log says it was."""


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Let a command be told where the settings and the state of `tollgate dev` are."""
    add_settings_option(parser)
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path(".tollgate"),
        metavar="DIR",
        help="of a running `tollgate dev`, used where no database is set (default: .tollgate)",
    )


def database_url(args: argparse.Namespace) -> str:
    """The database's URL. Raises UserError where there is none."""
    settings = load_settings(args).settings
    if settings.postgres_url is not None:
        return settings.postgres_url.get_secret_value()
    url = _of_dev(args, "postgres")
    if url is None:
        raise UserError(
            f"no database: set TOLLGATE_POSTGRES_URL (or postgres_url in tollgate.toml), or start `tollgate dev`"
            f" (no {args.state_dir / 'dev.json'} here)"
        )
    return url


def redis_url(args: argparse.Namespace) -> str | None:
    """The URL of the Redis that goes with it; None where there is none. Raises UserError."""
    settings = load_settings(args).settings
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return None if settings.postgres_url is not None else _of_dev(args, "redis")


def _of_dev(args: argparse.Namespace, name: str) -> str | None:
    """A server's URL of a running `tollgate dev`."""
    file = args.state_dir / "dev.json"
    try:
        url = json.loads(file.read_text(encoding="utf-8")).get(name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError):
        raise UserError(f"cannot read {file}") from None
    return url if isinstance(url, str) else None


def vault_of(args: argparse.Namespace) -> Vault | None:
    """The vault of the settings' encryption keys; where there are none and the database is `tollgate dev`'s, its own.

    Raises UserError.
    """
    from config.settings import Settings
    from ledger.vault import VaultError, vault_of

    settings = load_settings(args).settings
    key_file = args.state_dir / KEY_FILE
    if settings.postgres_url is None and key_file.exists():
        keys = {"encryption_keys": settings.encryption_keys, "encryption_keys_file": settings.encryption_keys_file}
        if not any(keys.values()):
            settings = Settings(encryption_keys_file=key_file)
    try:
        return vault_of(settings)
    except VaultError as error:
        raise UserError(str(error)) from None


def on_database(args: argparse.Namespace, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """What `work` returns when it is given a connection. Raises UserError for what the user can put right."""
    return asyncio.run(_on_database(database_url(args), work))


async def _on_database(url: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    import asyncpg

    from admin.changes import Refused
    from admin.declare.faults import path_text
    from admin.store import reason_of
    from tollgate.database import connected

    async with connected(url) as connection:
        try:
            return await work(connection)
        except Refused as refused:
            path = path_text(refused.path)
            raise UserError(f"{path}: {refused.message}" if path else refused.message) from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            reason = reason_of(error)
            if reason is None:
                raise
            hint = "; run `tollgate migrate`" if "migrated" in reason else ""
            raise UserError(f"PostgreSQL {reason}{hint}") from None
