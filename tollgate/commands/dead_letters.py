"""`tollgate dead-letters`: what was put aside, and trying it again."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from tollgate.commands import UserError
from tollgate.target import add_target_options, on_database

if TYPE_CHECKING:
    import asyncpg


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("dead-letters", help="usage and billing entries that were put aside")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    list_ = actions.add_parser("list", help="the newest, with the reason")
    list_.add_argument("--kind", choices=["stream", "billing"], help="default: both")
    list_.add_argument("--limit", type=int, default=100, metavar="N", help="default: 100")
    replay = actions.add_parser("replay", help="try some again, once their cause is gone")
    replay.add_argument("ids", nargs="+", metavar="ID", help="stream-… or billing-…, as `list` shows them, or all")
    replay.add_argument("--force", action="store_true", help="also billing entries that Stripe may have already")
    for action in (list_, replay):
        action.add_argument("--json", action="store_true", help="for programs")
        add_target_options(action)


def run(args: argparse.Namespace) -> int:
    """Print them, or what became of them; 1 if some could not be stored. Raises UserError."""
    text, status = on_database(args, lambda connection: _act(connection, args))
    print(text)
    return status


async def _act(connection: asyncpg.Connection, args: argparse.Namespace) -> tuple[str, int]:
    from ledger.dead_letters import dead_letters, parsed, replay

    if args.action == "list":
        if not 1 <= args.limit <= 10_000:
            raise UserError("--limit: expected a number from 1 to 10000")
        found = await dead_letters(connection, args.kind, args.limit)
        if args.json:
            return json.dumps([asdict(letter) for letter in found], default=str), 0
        lines = [f"{one.id:14}{one.at:%Y-%m-%d %H:%M}  {one.source}  {one.reason}\n    {one.excerpt}" for one in found]
        return "\n".join(lines) or "There are none.", 0
    ids = list(args.ids)
    if ids == ["all"]:
        ids = [letter.id for letter in await dead_letters(connection, None, 10_000)]
    if wrong := [name for name in ids if parsed(name) is None]:
        raise UserError(f"{wrong[0]!r} is no dead letter's id, such as stream-12 or billing-7")
    done = await replay(connection, ids, time.time_ns() // 1_000_000, force=args.force)
    missing = sorted(set(ids) - {one.id for one in done})
    status = int(bool(missing) or not all(one.is_done for one in done))
    if args.json:
        return json.dumps({"done": [asdict(one) for one in done], "missing": missing}), status
    lines = [f"{one.id}: {'done' if one.is_done else one.reason}" for one in done]
    return "\n".join([*lines, *(f"{name}: is not there" for name in missing)]) or "There are none.", status
