"""The demo project: something to call from the first minute, declared by the same code that users declare theirs with.

It is declared once. Later starts only tell its upstream's new address, so what a user changed in it stays; a key that
was revoked or lost is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from ledger import sql
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import KeyKind, hash_key
from ledger.specs import CustomerSpec, Declaration, KeySpec, ProjectSpec, RouteSpec, TierSpec, UpstreamSpec
from tollgate.dev import code_runner, platform

PROJECT: Final = "Demo"
CUSTOMER: Final = "demo"
ACTOR: Final = "cli"
_QUOTAS: Final = {"requests": 100_000, "runs": 10_000, "cpu_ms": None, "mem_mb_s": None}
_SQL: Final = sql.load("tollgate.dev", "demo.sql")
_KEYS: Final = {
    "secret": KeySpec(name="Demo secret key", kind=KeyKind.SECRET),
    "publishable": KeySpec(name="Demo publishable key", kind=KeyKind.PUBLISHABLE),
    "customer": KeySpec(name="Demo customer key", kind=KeyKind.CUSTOMER, customer=CUSTOMER),
}


@dataclass(frozen=True, slots=True)
class Demo:
    """What the summary shows. `keys` maps secret, publishable and customer to key texts; and platform, where code is run."""

    project_id: str
    customer_id: str
    keys: Mapping[str, str]


def declaration(upstream_url: str) -> Declaration:
    """The whole project."""
    project = ProjectSpec(
        name=PROJECT,
        tiers=(
            TierSpec.model_validate({"name": "free", "default": True, "requests_per_minute": 300, "quotas": _QUOTAS}),
        ),
        customers=(CustomerSpec(external_id=CUSTOMER, name="Demo customer", tier="free"),),
        upstreams=(_upstream(upstream_url),),
        routes=(RouteSpec(name="demo", path="/demo/*", upstream="demo"),),
    )
    return Declaration(projects=(project,))


def _upstream(url: str) -> UpstreamSpec:
    return UpstreamSpec.model_validate({"name": "demo", "targets": [url]})


def runner(urls: str) -> ProjectSpec:
    """What the project needs to run code."""
    return ProjectSpec(
        name=PROJECT,
        upstreams=(code_runner.upstream(urls),),
        routes=code_runner.run_routes() + code_runner.endpoint_routes(),
    )


async def seed(
    connection: asyncpg.Connection,
    upstream_url: str,
    kept_keys: Mapping[str, str],
    sandbox_url: str | None = None,
    plans_url: str = "http://localhost/",
) -> Demo:
    """Make the demo project what `tollgate dev` promises; returns it with its keys, kept ones wherever they still work.

    `sandbox_url` is where code is run (nodes have commas between them), None where it is not; there the demo project is a
    customer of the platform too, whose plans are bought at `plans_url`. Raises asyncpg errors, and whatever admin refuses.
    """
    from admin.declare import apply

    found = await connection.fetchrow(_SQL["find"], PROJECT, CUSTOMER, "demo")
    if found is None or found["customer_id"] is None or found["targets"] is None:
        await apply(connection, declaration(upstream_url), actor=ACTOR)
        found = await connection.fetchrow(_SQL["find"], PROJECT, CUSTOMER, "demo")
    elif f'"{upstream_url}"' not in found["targets"]:
        moved = ProjectSpec(name=PROJECT, upstreams=(_upstream(upstream_url),))
        await apply(connection, Declaration(projects=(moved,)), actor=ACTOR)
    if found is None or found["customer_id"] is None:
        raise RuntimeError("the demo project was declared and is not there")
    if sandbox_url is not None:
        known = await connection.fetchrow(_SQL["find"], PROJECT, CUSTOMER, code_runner.UPSTREAM)
        targets = known["targets"] if known is not None else None
        if targets is None:
            await apply(connection, Declaration(projects=(runner(sandbox_url),)), actor=ACTOR)
        elif any(f'"{url.strip()}"' not in targets for url in sandbox_url.split(",")):
            moved = ProjectSpec(name=PROJECT, upstreams=(code_runner.upstream(sandbox_url),))
            await apply(connection, Declaration(projects=(moved,)), actor=ACTOR)
    keys = await _keys(connection, found["project_id"], _KEYS, kept_keys)
    if sandbox_url is not None:
        await platform.seed(connection, sandbox_url, found["project_id"], plans_url)
        of_platform = {"platform": platform.key_of(found["project_id"])}
        keys |= await _keys(connection, PLATFORM_PROJECT_ID, of_platform, kept_keys)
    return Demo(found["project_id"], found["customer_id"], keys)


async def _keys(
    connection: asyncpg.Connection, project_id: str, specs: Mapping[str, KeySpec], kept: Mapping[str, str]
) -> dict[str, str]:
    """The texts of these keys, made where they are not kept or no longer work."""
    from admin.keys.create import create_key

    hashes = {name: hash_key(text.encode()) for name, text in kept.items() if name in specs}
    usable = {row["hash"] for row in await connection.fetch(_SQL["usable_keys"], project_id, list(hashes.values()))}
    keys = {}
    for name, spec in specs.items():
        if name in kept and hashes[name] in usable:
            keys[name] = kept[name]
        else:
            keys[name] = (await create_key(connection, project_id, spec, actor=ACTOR)).key.text
    return keys
