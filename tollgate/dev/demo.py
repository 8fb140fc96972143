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
from ledger.keys import KeyKind, hash_key
from ledger.specs import CustomerSpec, Declaration, KeySpec, ProjectSpec, RouteSpec, TierSpec, UpstreamSpec

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
    """What the summary shows. `keys` maps secret, publishable and customer to key texts."""

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


def _upstream(url: str, name: str = "demo") -> UpstreamSpec:
    return UpstreamSpec.model_validate({"name": name, "targets": [url]})


def runner(url: str) -> ProjectSpec:
    """What the project needs to run code: the sandbox as an ordinary upstream, and its API as ordinary routes.

    What a run used is read from the answer: its headers, and of an event stream the last event.
    """
    common = {"upstream": "sandbox", "strip_prefix": False, "scopes": ["run"]}
    # A run that was lost with its sandbox costs nothing.
    counted = common | {"on_upstream_failure": "free", "read_timeout_ms": 330_000}
    run = counted | {"methods": ["POST"], "max_body_bytes": 16_777_216}
    by_header = {
        "runs": "header:X-Usage-Runs",
        "cpu_ms": "header:X-Usage-Cpu-Ms",
        "mem_mb_s": "header:X-Usage-Mem-Mb-S",
    }
    call = counted | {"max_body_bytes": 1_048_576, "meters": {"requests": 1, **by_header}}
    by_event = {"runs": "$.usage.runs", "cpu_ms": "$.usage.cpuMs", "mem_mb_s": "$.usage.memMBs"}
    routes = (
        run | {"name": "run", "path": "/api/run", "meters": {"requests": 1, **by_header}},
        run | {"name": "run-stream", "path": "/api/run/stream", "meters": {"requests": 1, **by_event}},
        common | {"name": "run-result", "path": "/api/run/{id}", "methods": ["GET", "DELETE"]},
        common | {"name": "runs", "path": "/api/runs", "methods": ["GET"]},
        common | {"name": "endpoints", "path": "/api/endpoints/*"},
        common | {"name": "endpoint-list", "path": "/api/endpoints"},
        call | {"name": "call", "path": "/e/*"},
        call | {"name": "call-public", "path": "/e/open/*", "scopes": [], "auth": "none"},
    )
    return ProjectSpec(
        name=PROJECT,
        upstreams=(_upstream(url, "sandbox"),),
        routes=tuple(RouteSpec.model_validate(route) for route in routes),
    )


async def seed(
    connection: asyncpg.Connection, upstream_url: str, kept_keys: Mapping[str, str], sandbox_url: str | None = None
) -> Demo:
    """Make the demo project what `tollgate dev` promises; returns it with its keys, kept ones wherever they still work.

    `sandbox_url` is where code is run, None where it is not. Raises asyncpg errors, and whatever admin refuses.
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
        known = await connection.fetchrow(_SQL["find"], PROJECT, CUSTOMER, "sandbox")
        targets = known["targets"] if known is not None else None
        if targets is None:
            await apply(connection, Declaration(projects=(runner(sandbox_url),)), actor=ACTOR)
        elif f'"{sandbox_url}"' not in targets:
            moved = ProjectSpec(name=PROJECT, upstreams=(_upstream(sandbox_url, "sandbox"),))
            await apply(connection, Declaration(projects=(moved,)), actor=ACTOR)
    keys = await _keys(connection, found["project_id"], kept_keys)
    return Demo(found["project_id"], found["customer_id"], keys)


async def _keys(connection: asyncpg.Connection, project_id: str, kept: Mapping[str, str]) -> dict[str, str]:
    from admin.keys.create import create_key

    hashes = {name: hash_key(text.encode()) for name, text in kept.items() if name in _KEYS}
    usable = {row["hash"] for row in await connection.fetch(_SQL["usable_keys"], project_id, list(hashes.values()))}
    keys = {}
    for name, spec in _KEYS.items():
        if name in kept and hashes[name] in usable:
            keys[name] = kept[name]
        else:
            keys[name] = (await create_key(connection, project_id, spec, actor=ACTOR)).key.text
    return keys
