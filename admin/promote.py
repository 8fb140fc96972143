"""From test to live: the tiers of the test half are copied to the live half, and live keys are made.

Routes and upstreams serve both halves already; customers, keys and usage of the test half stay where they are. A live
tier of the same name is brought to what the test tier says. Doing it twice changes nothing the second time, except that
keys are made where there is no live key that works.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from admin.changes import Change
from admin.keys import CreatedKey, create_key, has_secret_key
from admin.nouns import Scope
from admin.store import writing
from admin.tiers import rows as tiers
from ledger.keys import KeyKind, Mode
from ledger.specs import KeySpec, TierSpec


@dataclass(frozen=True, slots=True)
class Preview:
    """What promoting would do, by names of tiers."""

    created: list[str]
    updated: list[str]
    same: list[str]
    makes_keys: bool


@dataclass(frozen=True, slots=True)
class Promoted:
    """What was done. The texts of `secret` and `publishable` are shown once; None where live keys existed."""

    changes: list[Change]
    secret: CreatedKey | None
    publishable: CreatedKey | None


async def preview(connection: asyncpg.Connection, project_id: str) -> Preview:
    """What promoting would do now."""
    test, live = Scope(project_id, Mode.TEST), Scope(project_id, Mode.LIVE)
    existing = await tiers.by_name(connection, live)
    found = Preview([], [], [], not await has_secret_key(connection, live))
    for name, tier in (await tiers.by_name(connection, test)).items():
        wanted = tiers.normal(_live(tier.spec), live)
        if name not in existing:
            found.created.append(name)
        elif existing[name].spec == wanted:
            found.same.append(name)
        else:
            found.updated.append(name)
    return found


async def promote(connection: asyncpg.Connection, project_id: str, *, actor: str) -> Promoted:
    """Do it, in one transaction."""
    test, live = Scope(project_id, Mode.TEST), Scope(project_id, Mode.LIVE)
    changes: list[Change] = []
    async with writing(connection):
        existing = await tiers.by_name(connection, live)
        declared = sorted((await tiers.by_name(connection, test)).values(), key=lambda tier: tier.spec.default)
        for tier in declared:
            spec = _live(tier.spec)
            current = existing.get(spec.name)
            if current is None:
                changes += await tiers.create(connection, live, spec, actor=actor)
            else:
                changes += await tiers.update(connection, live, current, spec, actor=actor)
        if await has_secret_key(connection, live):
            return Promoted(changes, None, None)
        secret = KeySpec(name="Live secret key", kind=KeyKind.SECRET, mode=Mode.LIVE)
        publishable = KeySpec(name="Live publishable key", kind=KeyKind.PUBLISHABLE, mode=Mode.LIVE)
        return Promoted(
            changes,
            await create_key(connection, project_id, secret, actor=actor),
            await create_key(connection, project_id, publishable, actor=actor),
        )


def _live(spec: TierSpec) -> TierSpec:
    return spec.model_copy(update={"modes": (Mode.LIVE,)})
