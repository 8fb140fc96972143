"""Billed meters in declarations: billed from now on, renamed, stopped; exported as they were declared."""

from __future__ import annotations

import asyncpg
import pytest

from admin.changes import Refused
from admin.declare import DeclarationError, export
from tests.admin.declared import apply_text

PG = asyncpg.Connection


def shop(meters: str) -> str:
    return f"version: 1\nprojects:\n  - name: Shop\n    billed_meters: {meters}\n"


async def billed(pg: PG) -> list[tuple[str, str, str, bool]]:
    rows = await pg.fetch("SELECT mode, meter, event_name, until FROM billed_meters ORDER BY 1, 2")
    return [(row["mode"], row["meter"], row["event_name"], row["until"].year > 9000) for row in rows]


async def test_they_are_billed_from_now_on_in_their_modes(pg: PG) -> None:
    text = shop("[requests, {meter: tokens, event_name: api_tokens, modes: [live]}]")
    changes = await apply_text(pg, text)
    assert [(c.action, c.noun, c.name, c.mode) for c in changes[1:]] == [
        ("created", "billed_meter", "requests", "test"),
        ("created", "billed_meter", "requests", "live"),
        ("created", "billed_meter", "tokens", "live"),
    ]
    assert await billed(pg) == [
        ("live", "requests", "requests", True),
        ("live", "tokens", "api_tokens", True),
        ("test", "requests", "requests", True),
    ]
    since = await pg.fetchval("SELECT max(now() - since) FROM billed_meters")
    assert since.total_seconds() < 60
    assert await apply_text(pg, text) == []
    assert await apply_text(pg, await export(pg), prune=True) == []
    assert "- requests\n" in await export(pg)


async def test_a_new_event_name_keeps_the_moment(pg: PG) -> None:
    await apply_text(pg, shop("[{meter: requests, modes: [live]}]"))
    since = await pg.fetchval("SELECT since FROM billed_meters")
    [change] = await apply_text(pg, shop("[{meter: requests, event_name: api, modes: [live]}]"))
    assert change.fields == {"event_name": ("requests", "api")}
    assert await pg.fetchval("SELECT since FROM billed_meters") == since


async def test_pruned_they_end_and_do_not_begin_again(pg: PG) -> None:
    await apply_text(pg, shop("[requests]"))
    assert await apply_text(pg, shop("[]")) == []
    assert len(await apply_text(pg, shop("[]"), prune=True)) == 2
    assert await billed(pg) == [("live", "requests", "requests", False), ("test", "requests", "requests", False)]
    assert "billed_meters" not in await export(pg)
    with pytest.raises(Refused, match="is not billed after") as caught:
        await apply_text(pg, shop("[requests]"))
    assert caught.value.path == ("projects", 0, "billed_meters", 0, "meter")


@pytest.mark.parametrize(
    "wrong",
    [
        "[Requests]",
        "[{event_name: x}]",
        "[requests, requests]",
        "[{meter: a, event_name: ''}]",
        "[{meter: a, since: 1}]",
    ],
)
async def test_what_cannot_be_declared(pg: PG, wrong: str) -> None:
    with pytest.raises(DeclarationError):
        await apply_text(pg, shop(wrong))
