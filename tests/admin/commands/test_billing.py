"""`tollgate billing`: what is told to Stripe is said on the command line."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from ledger.billing.notices import read, store
from tests.admin.commands.conftest import Tollgate

SHOP = """
version: 1
projects:
  - name: Shop
    customers: [{external_id: ada}]
"""


@pytest.fixture
def run(tollgate: Tollgate) -> Tollgate:
    """Project Shop is there."""
    assert tollgate("apply", "-f", "-", stdin=SHOP.encode()).status == 0
    return tollgate


def test_from_nothing_to_billed(run: Tollgate) -> None:
    assert run("billing", "status").out.startswith("connected   no\n")
    assert run("billing", "connect").out == "Shop (test) bills through the platform account.\n"
    assert (
        "requests of Shop (test) is billed as api since"
        in run("billing", "bill", "requests", "--event-name", "api").out
    )
    assert run("billing", "link", "ada", "cus_S1").out == "ada of Shop (test) is cus_S1.\n"
    status = json.loads(run("billing", "status", "--json").out)
    assert (status["account"], [m["event_name"] for m in status["meters"]]) == ("platform", ["api"])


def test_what_stripe_delivered_is_listed(tollgate: Tollgate, postgres_url: str) -> None:
    assert tollgate("billing", "notices").out == "Stripe has delivered nothing.\n"

    async def receive() -> None:
        connection = await asyncpg.connect(postgres_url)
        await store(connection, read(b'{"id": "evt_1", "type": "invoice.paid", "livemode": true}'))
        await connection.close()

    asyncio.run(receive())
    line = tollgate("billing", "notices").out
    assert line.endswith("ignored  live invoice.paid  evt_1  (nothing handles this kind yet)\n")
    [found] = json.loads(tollgate("billing", "notices", "--json").out)
    assert (found["event_id"], found["state"]) == ("evt_1", "ignored")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["connect", "--account", "nonsense"], "that is no Stripe id"),
        (["link", "ada", "nonsense"], "that is no Stripe id"),
        (["bill", "No Meter"], "'No Meter' is not a meter's name"),
        (["bill", "requests", "--since", "yesterday"], "expected a moment such as"),
        (["bill", "requests", "--since", "2020-01-01T00:00:00Z"], "35 days"),
        (["bill", "requests", "--since", "2020-01-01T00:00:00"], "needs a time zone"),
        (["stop", "tokens", "--until", "2999-01-01T00:00:00Z"], "'tokens' is not billed"),
        (["stop", "tokens", "--until", "2020-01-01T00:00:00Z"], "lies in the past"),
        (["status", "--project", "nobody"], "no project is called 'nobody'"),
    ],
)
def test_what_cannot_be_is_one_line(run: Tollgate, arguments: list[str], message: str) -> None:
    done = run("billing", *arguments)
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert message in done.err
