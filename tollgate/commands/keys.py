"""`tollgate keys`: create, list, revoke and rotate API keys. A key's text is printed once, when it is made."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tollgate.commands import UserError
from tollgate.target import ACTOR, add_target_options, on_database

if TYPE_CHECKING:
    import asyncpg

    from admin.keys import Key
    from admin.projects.rows import Project

_KINDS = {"secret": "sk", "publishable": "pk", "customer": "ck"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("keys", help="create, list, revoke and rotate API keys")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    create = actions.add_parser("create", help="make a key and print it, once")
    create.add_argument("--name", required=True, help="what it is for, for people")
    create.add_argument("--kind", choices=[*_KINDS, *_KINDS.values()], help="default: secret, customer with --customer")
    create.add_argument("--customer", metavar="EXTERNAL_ID", help="the customer a customer key is bound to")
    create.add_argument("--scope", action="append", default=[], metavar="SCOPE", help="may be repeated; default: all")
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="a limit of its own")
    create.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="may be repeated")
    create.add_argument("--allow-ip", action="append", default=[], metavar="NETWORK", help="may be repeated")
    create.add_argument("--expires-at", metavar="MOMENT", help="such as 2027-01-31T00:00:00Z")

    list_ = actions.add_parser("list", help="list a project's keys, newest first")
    revoke = actions.add_parser("revoke", help="stop a key from working, now and for good")
    revoke.add_argument("id", metavar="KEY_ID", help="key_…, as `keys list` shows it")
    rotate = actions.add_parser("rotate", help="make a key's successor and print it, once")
    rotate.add_argument("id", metavar="KEY_ID", help="key_…, as `keys list` shows it")
    rotate.add_argument(
        "--grace-seconds", type=int, default=0, metavar="N", help="how long the old key still works (default: 0)"
    )

    for action in (create, list_):
        action.add_argument("--project", metavar="NAME", help="needed where there is more than one")
        action.add_argument("--mode", choices=["test", "live"], default="test", help="default: test")
    for action in (create, list_, revoke, rotate):
        action.add_argument("--json", action="store_true", help="for programs")
        add_target_options(action)


def run(args: argparse.Namespace) -> int:
    """Do it and print what came of it. Raises UserError."""
    actions = {"create": _create, "list": _list, "revoke": _revoke, "rotate": _rotate}
    print(on_database(args, lambda connection: actions[args.action](connection, args)))
    return 0


async def _create(connection: asyncpg.Connection, args: argparse.Namespace) -> str:
    from pydantic import ValidationError

    from admin.declare.explain import explain
    from admin.keys import create_key
    from ledger.specs import KeySpec

    kind = args.kind or ("customer" if args.customer else "secret")
    values = {
        "name": args.name,
        "kind": _KINDS.get(kind, kind),
        "mode": args.mode,
        "customer": args.customer,
        "scopes": args.scope,
        "requests_per_minute": args.requests_per_minute,
        "allowed_origins": args.allow_origin,
        "allowed_ips": args.allow_ip,
        "expires_at": args.expires_at,
    }
    try:
        spec = KeySpec.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(str(fault) for fault in explain(error, KeySpec, values))) from None
    project = await _project(connection, args.project)
    created = await create_key(connection, project.id, spec, actor=ACTOR)
    if args.json:
        return json.dumps({"key": created.key.text, "id": created.id, "prefix": created.key.prefix})
    return created.key.text


async def _list(connection: asyncpg.Connection, args: argparse.Namespace) -> str:
    from admin.keys import list_keys
    from admin.nouns import Scope
    from ledger.keys import Mode

    project = await _project(connection, args.project)
    found = await list_keys(connection, Scope(project.id, Mode(args.mode)), None, None)
    if args.json:
        return json.dumps([_fields(key) for key in found], default=str)
    if not found:
        return f"Project {project.name} has no {args.mode} keys."
    rows = [("ID", "KEY", "NAME", "CUSTOMER", "LAST USED", "STATE")]
    rows += [
        (key.id, f"{key.prefix}…", key.name, key.customer or "-", _moment(key.last_used_at), _state(key))
        for key in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


async def _revoke(connection: asyncpg.Connection, args: argparse.Namespace) -> str:
    from admin.keys import revoke_key

    key = await revoke_key(connection, await _key(connection, args.id), actor=ACTOR)
    if args.json:
        return json.dumps(_fields(key), default=str)
    return f"Key {key.id} ({key.name}) is revoked since {_moment(key.revoked_at)}."


async def _rotate(connection: asyncpg.Connection, args: argparse.Namespace) -> str:
    from admin.keys import rotate_key

    old = await _key(connection, args.id)
    created = await rotate_key(connection, old, args.grace_seconds, actor=ACTOR)
    if args.json:
        until = (await _key(connection, old.id)).expires_at
        return json.dumps(
            {"key": created.key.text, "id": created.id, "prefix": created.key.prefix, "old_key_expires_at": until},
            default=str,
        )
    return created.key.text


async def _key(connection: asyncpg.Connection, key_id: str) -> Key:
    from admin.keys import get_key

    key = await get_key(connection, key_id) if key_id.isascii() else None
    if key is None:
        raise UserError(f"there is no key {key_id!r}; `tollgate keys list` shows them")
    return key


async def _project(connection: asyncpg.Connection, name: str | None) -> Project:
    """The named project; without a name the only one there is, the platform's own aside."""
    from admin.projects import rows as projects
    from ledger.ids import PLATFORM_PROJECT_ID

    if name is not None:
        project = await projects.by_name(connection, name)
        if project is None:
            raise UserError(f"no project is called {name!r}")
        return project
    found = [p for p in await projects.page(connection, None, None) if p.id != PLATFORM_PROJECT_ID]
    if len(found) != 1:
        names = ", ".join(sorted(p.name for p in found)) or "none yet; `tollgate apply` makes them"
        raise UserError(f"say which project with --project ({names})")
    return found[0]


def _fields(key: Key) -> Mapping[str, Any]:
    from admin.keys.rows import fields_of

    return {"id": key.id, **fields_of(key), "last_used_at": key.last_used_at, "created_at": key.created_at}


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {_moment(key.revoked_at)}"
    rotated = f"rotated to {key.rotated_to}, " if key.rotated_to else ""
    if key.expires_at is None:
        return f"{rotated}works"
    return f"{rotated}{'expired' if key.has_expired else 'expires'} {_moment(key.expires_at)}"


def _moment(moment: Any) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%SZ")
