"""The example that is shipped: valid, appliable, and honest about what it says."""

from __future__ import annotations

from importlib import resources

import asyncpg

from admin.declare import apply, export, load
from tests.admin.declared import ACTOR, apply_text

TEXT = resources.files("config").joinpath("example.yaml").read_text(encoding="utf-8")


async def test_applies_twice_and_round_trips(pg: asyncpg.Connection) -> None:
    declaration = load(TEXT, "config/example.yaml")
    assert len(await apply(pg, declaration, actor=ACTOR)) == 20
    assert await apply(pg, declaration, actor=ACTOR, prune=True) == []
    assert await apply_text(pg, await export(pg), prune=True) == []


def test_shows_every_noun_and_both_forms_of_a_quota() -> None:
    (project,) = load(TEXT, "config/example.yaml").projects
    assert all(
        (project.tiers, project.customers, project.billed_meters, project.issuers, project.upstreams, project.routes)
    )
    assert {quota.hard for tier in project.tiers for quota in tier.quotas.values()} == {True, False}


def test_lines_fit_a_screen() -> None:
    assert max(map(len, TEXT.splitlines())) <= 120
