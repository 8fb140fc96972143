"""`tollgate secrets`: the keys that seal stored credentials. Their texts are printed by `new-key` alone."""

from __future__ import annotations

import argparse
import sys

from tollgate.commands import UserError
from tollgate.target import add_target_options, on_database, vault_of


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "secrets",
        help="make encryption keys, and seal stored credentials anew",
        description="Credentials of upstreams are stored sealed with the keys of `encryption_keys`, newest first. To"
        " rotate: put a new key first and restart the planes, run `reseal`, then take the old key away.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("new-key", help="print a fresh key for TOLLGATE_ENCRYPTION_KEYS")
    add_target_options(actions.add_parser("reseal", help="seal everything that is stored with the newest key"))


def run(args: argparse.Namespace) -> int:
    """Print a key, or what was sealed; status 1 if something cannot be opened. Raises UserError."""
    if args.action == "new-key":
        from config.encryption import new_key

        print(new_key())
        return 0
    from admin.credentials import reseal

    vault = vault_of(args)
    if vault is None:
        raise UserError("no encryption key: set TOLLGATE_ENCRYPTION_KEYS (or encryption_keys_file in tollgate.toml)")
    done = on_database(args, lambda connection: reseal(connection, vault))
    print(f"{done.resealed} sealed with the newest key, {done.current} were already.")
    if done.lost:
        print(f"tollgate: none of the keys opens the secret of: {', '.join(done.lost)}", file=sys.stderr)
    return 1 if done.lost else 0
