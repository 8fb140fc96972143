"""Applying a declaration: compare what is declared with what exists, and write the difference, all or nothing.

The order makes every declaration reachable in one go: tiers (those that stop being the default first), then issuers and
routes that go, issuers, upstreams, routes (those that change what they match stand aside first, so that two can trade
places), upstreams that go, customers, billed meters, and last tiers that go, when their customers have moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import asyncpg

from admin.billed import rows as billed
from admin.changes import Change, Refused
from admin.customers import rows as customers
from admin.issuers import rows as issuers
from admin.nouns import Noun, Scope, Stored
from admin.projects import rows as projects
from admin.routes import rows as routes
from admin.store import writing
from admin.tiers import rows as tiers
from admin.upstreams import rows as upstreams
from ledger.billing.billed import alone
from ledger.keys import Mode
from ledger.specs import CustomerSpec, Declaration, IssuerSpec, ProjectSpec, RouteSpec, TierSpec, UpstreamSpec
from ledger.vault import Vault

S = TypeVar("S", TierSpec, CustomerSpec, IssuerSpec, UpstreamSpec, RouteSpec)
BOTH = (Mode.TEST, Mode.LIVE)


class _DryRun(Exception):
    """Ends the transaction of a dry run."""


async def apply(
    connection: asyncpg.Connection,
    declaration: Declaration,
    *,
    actor: str,
    dry_run: bool = False,
    prune: bool = False,
    modes: Collection[Mode] = BOTH,
    vault: Vault | None = None,
) -> list[Change]:
    """Make it so, in one transaction; returns what changed, in order: [] if it was so already (then nothing is written).

    `dry_run` does everything and takes it back. `prune` also deletes the routes, upstreams, issuers and tiers of the
    declared projects that are not declared, and stops billing meters that are not. `modes` narrows tiers, customers, billed
    meters and issuers to some modes. `vault`
    seals the credentials that are new. Raises Refused, whose path leads to the field of the declaration that cannot be had.
    """
    changes: list[Change] = []
    try:
        async with writing(connection):
            if prune or any(spec.billed_meters for spec in declaration.projects):
                await alone(connection)
            for index, spec in enumerate(declaration.projects):
                with _at("projects", index):
                    changes += await _project(connection, spec, modes, vault, prune=prune, actor=actor)
            if dry_run:
                raise _DryRun
    except _DryRun:
        pass
    return changes


async def _project(
    connection: asyncpg.Connection,
    spec: ProjectSpec,
    modes: Collection[Mode],
    vault: Vault | None,
    *,
    prune: bool,
    actor: str,
) -> list[Change]:
    changes: list[Change] = []
    project = await projects.by_name(connection, spec.name)
    if project is None:
        created = await projects.create(connection, spec, actor=actor)
        changes.append(created)
        project_id = created.object_id
    elif project.kind != spec.kind:
        raise Refused(f"project {spec.name!r} is of kind {project.kind}, which is fixed when it is made", "kind")
    else:
        project_id = project.id
    scopes = [Scope(project_id, mode) for mode in modes]
    whole = Scope(project_id, Mode.TEST, vault)  # of what serves both modes

    for scope in scopes:
        declared = [(i, t) for i, t in enumerate(spec.tiers) if scope.mode in t.modes]
        declared.sort(key=lambda entry: entry[1].default)
        changes += await _put(connection, tiers, "tiers", scope, declared, actor=actor)

    if prune:
        for scope in scopes:
            trusted = [issuer for issuer in spec.issuers if issuer.mode is scope.mode]
            changes += await _prune(connection, issuers, scope, trusted, actor=actor)
        changes += await _prune(connection, routes, whole, spec.routes, actor=actor)
    for scope in scopes:
        of_mode = [(i, n) for i, n in enumerate(spec.issuers) if n.mode is scope.mode]
        changes += await _put(connection, issuers, "issuers", scope, of_mode, actor=actor)
    changes += await _put(connection, upstreams, "upstreams", whole, list(enumerate(spec.upstreams)), actor=actor)
    await _make_way(connection, whole, spec.routes)
    changes += await _put(connection, routes, "routes", whole, list(enumerate(spec.routes)), actor=actor)
    if prune:
        changes += await _prune(connection, upstreams, whole, spec.upstreams, actor=actor)

    for scope in scopes:
        served = [(i, c) for i, c in enumerate(spec.customers) if scope.mode in c.modes]
        changes += await _put(connection, customers, "customers", scope, served, actor=actor)
        meters = [(i, b) for i, b in enumerate(spec.billed_meters) if scope.mode in b.modes]
        with _at("billed_meters"):
            changes += await billed.put(connection, scope, meters, actor=actor)
        if prune:
            changes += await billed.prune(connection, scope, [b for _, b in meters], actor=actor)
    if prune:
        for scope in scopes:
            kept = [tier for tier in spec.tiers if scope.mode in tier.modes]
            changes += await _prune(connection, tiers, scope, kept, actor=actor)
    return changes


async def _put(
    connection: asyncpg.Connection,
    noun: Noun[S],
    field: str,
    scope: Scope,
    declared: Sequence[tuple[int, S]],
    *,
    actor: str,
) -> list[Change]:
    """Create or update what is declared; each entry comes with its index in `field`."""
    changes: list[Change] = []
    existing = await _existing(connection, noun, scope, [spec for _, spec in declared])
    for index, spec in declared:
        with _at(field, index):
            current = existing.get(_name(noun, spec))
            if current is None:
                changes += await noun.create(connection, scope, spec, actor=actor)
            else:
                changes += await noun.update(connection, scope, current, spec, actor=actor)
    return changes


async def _prune(
    connection: asyncpg.Connection, noun: Noun[S], scope: Scope, kept: Sequence[S], *, actor: str
) -> list[Change]:
    """Delete what is not declared."""
    changes: list[Change] = []
    names = {_name(noun, spec) for spec in kept}
    for name, current in (await noun.by_name(connection, scope)).items():
        if name not in names:
            changes += await noun.delete(connection, scope, current, actor=actor)
    return changes


async def _make_way(connection: asyncpg.Connection, scope: Scope, declared: Sequence[RouteSpec]) -> None:
    """Let the routes that are about to match something else match nothing meanwhile."""
    existing = await _existing(connection, routes, scope, declared)
    moving = [existing[r.name].id for r in declared if r.name in existing and existing[r.name].spec.serves != r.serves]
    await routes.stand_aside(connection, moving)


async def _existing(
    connection: asyncpg.Connection, noun: Noun[S], scope: Scope, specs: Sequence[S]
) -> Mapping[str, Stored[S]]:
    return await noun.by_name(connection, scope, [_name(noun, spec) for spec in specs])


def _name(noun: Noun[S], spec: S) -> str:
    return str(getattr(spec, noun.IDENTITY))


@contextmanager
def _at(*path: str | int) -> Iterator[None]:
    """Put `path` before the path of what is refused inside."""
    try:
        yield
    except Refused as refused:
        raise type(refused)(refused.message, *path, *refused.path) from refused
