"""`tollgate reconcile`: compare every book that holds usage, and put right what differs if asked to."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tollgate.commands import UserError, load_settings
from tollgate.target import add_target_options, on_database, redis_url

if TYPE_CHECKING:
    import asyncpg

    from config.settings import Settings


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "reconcile",
        help="compare events, rollups, billing, Stripe and counters",
        description="Compare every book that holds usage over a month: Redis counters, events, rollups, billing slots,"
        " entries and Stripe's own sums. Ends with status 3 if something differs.",
    )
    parser.add_argument("--period", metavar="YYYY-MM", help="default: this month")
    parser.add_argument("--project", metavar="NAME", help="default: all")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--repair", action="store_true", help="put right what differs; nothing is billed twice (docs/reconciling.md)"
    )
    add_target_options(parser)


DIFFERS = 3


def run(args: argparse.Namespace) -> int:
    """Print the report; returns 0 if all books agree, else 3. Raises UserError."""
    settings = load_settings(args).settings
    text, is_clean = on_database(args, lambda connection: _reconcile(connection, args, settings))
    print(text)
    return 0 if is_clean else DIFFERS


async def _reconcile(connection: asyncpg.Connection, args: argparse.Namespace, settings: Settings) -> tuple[str, bool]:
    from contextlib import AsyncExitStack

    from prometheus_client import CollectorRegistry

    from admin.projects import rows as projects
    from ledger.metrics import BillingMetrics
    from ledger.reconcile.figures import table
    from ledger.reconcile.run import month_of, reconcile
    from ledger.stream import connect as connect_redis

    try:
        start, end = month_of(args.period, datetime.now(UTC))
    except ValueError:
        raise UserError(f"expected a month such as 2027-01, got {args.period!r}") from None
    names = {one.id: one.name for one in await projects.page(connection, None, None)}
    project_id = None
    if args.project is not None:
        project_id = next((key for key, name in names.items() if name == args.project), None)
        if project_id is None:
            raise UserError(f"no project is called {args.project!r}")
    async with AsyncExitStack() as closing:
        redis = door = None
        if (url := redis_url(args)) is not None:
            redis = connect_redis(url)
            closing.push_async_callback(redis.aclose)
        if settings.stripe.keys:
            from ledger.billing.door import Door

            door = Door(settings.stripe.keys, BillingMetrics(CollectorRegistry()), base_url=settings.stripe.api_url)
            closing.push_async_callback(door.close)
        report = await reconcile(
            connection,
            start,
            end,
            project_id=project_id,
            redis=redis,
            shards=settings.redis_shards,
            door=door,
            is_repair=args.repair,
        )
    if args.json:
        return json.dumps(report.as_json(), default=str), report.is_clean
    drift = ", ".join(f"{book} {units}" for book, units in report.drift.items() if units)
    lines = [table(report, list(names.items())), ""]
    lines += [f"not asked: {reason}" for reason in report.left_out]
    lines += [f"repaired: {what}" for what in report.repairs]
    lines.append("All books agree." if not drift else f"Units that differ: {drift}")
    return "\n".join(lines), report.is_clean
