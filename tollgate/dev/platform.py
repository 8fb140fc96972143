"""The platform's own project in `tollgate dev`: the operator sells runs to developers, whose projects are its customers.

Its free plan has 100 runs a month; beyond them runs are refused with where to get more. Its routes are those of the code
runner below /platform, as the demo project has the plain ones. What an operator changed stays: only what is not there is
made, and a moved sandbox is told.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from ledger import sql
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import KeyKind
from ledger.specs import CustomerSpec, Declaration, KeySpec, ProjectSpec, TierSpec
from tollgate.dev.code_runner import UPSTREAM, run_routes, upstream

PREFIX: Final = "/platform"
FREE_RUNS: Final = 100
ACTOR: Final = "cli"
_SQL: Final = sql.load("tollgate.dev", "demo.sql")
_UNLIMITED: Final = {"requests": None, "cpu_ms": None, "mem_mb_s": None}
_RUN_CENTS, _CPU_MS_CENTS = "0.1", "0.001"


def declaration(name: str, urls: str, developer: str, plans_url: str) -> ProjectSpec:
    """The platform's plans, routes and first customer. `developer` is a project's id, `plans_url` where plans are bought."""
    free = {
        "name": "free",
        "title": "Free",
        "default": True,
        "requests_per_minute": 60,
        "quotas": {"runs": FREE_RUNS, **_UNLIMITED},
        "upgrade_url": plans_url,
    }
    paid = {
        "name": "developer",
        "title": "Developer",
        "popular": True,
        "price_minor": 2_000,
        "requests_per_minute": 600,
        "quotas": {
            "runs": {"limit": 10_000, "hard": False, "overage_price": _RUN_CENTS},
            "cpu_ms": {"limit": 1_000_000, "hard": False, "overage_price": _CPU_MS_CENTS},
            "requests": None,
            "mem_mb_s": None,
        },
        "upgrade_url": plans_url,
    }
    return ProjectSpec(
        name=name,
        tiers=(TierSpec.model_validate(free), TierSpec.model_validate(paid)),
        customers=(CustomerSpec(external_id=developer),),
        upstreams=(upstream(urls),),
        routes=run_routes(PREFIX),
    )


def key_of(developer: str) -> KeySpec:
    """The key that a developer runs code with."""
    return KeySpec(name="Platform key", kind=KeyKind.CUSTOMER, customer=developer)


async def seed(connection: asyncpg.Connection, urls: str, developer: str, plans_url: str) -> None:
    """Declare what is not there. Raises asyncpg errors, and whatever admin refuses."""
    from admin.declare import apply

    name = await connection.fetchval("SELECT name FROM projects WHERE id = $1", PLATFORM_PROJECT_ID)
    known = await connection.fetchrow(_SQL["find"], name, developer, UPSTREAM)
    if known is None or known["targets"] is None or known["customer_id"] is None:
        project = declaration(name, urls, developer, plans_url)
    elif any(f'"{url.strip()}"' not in known["targets"] for url in urls.split(",")):
        project = ProjectSpec(name=name, upstreams=(upstream(urls),))
    else:
        return
    await apply(connection, Declaration(projects=(project,)), actor=ACTOR)
