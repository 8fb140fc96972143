"""Notices of Stripe's: what is signed is taken, whatever is not is refused, and nothing makes it stumble."""

from __future__ import annotations

import asyncpg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe import WebhookSignature

from ledger.billing.notices import TOLERANCE_S, Forged, Notice, Unreadable, newest, read, store, verified
from tests.ledger.facts import examples

SECRET, OTHER = "whsec_one", "whsec_two"
NOW = 1_800_000_000
BODY = orjson.dumps({"id": "evt_1", "type": "invoice.paid", "livemode": True, "account": "acct_1"})


def header(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> str:
    made: str = WebhookSignature.generate_signature_header(body.decode(), secret, at)  # by Stripe's own library
    return made


@pytest.mark.parametrize("secrets", [[SECRET], [OTHER, SECRET]])
@pytest.mark.parametrize("off_s", [0, TOLERANCE_S, -TOLERANCE_S])
def test_what_stripe_signed_is_taken(secrets: list[str], off_s: int) -> None:
    verified(BODY, header(), secrets, NOW + off_s)


def test_while_a_secret_is_replaced_either_signature_will_do() -> None:
    first, second = header(), header(secret=OTHER).partition(",")[2]
    for order in (f"{first},{second}", f"t={NOW},{second},{first.partition(',')[2]}", f"{first},v0=00"):
        verified(BODY, order, [OTHER, SECRET], NOW)
        verified(BODY, f"{first}, {second}", [SECRET], NOW)


@pytest.mark.parametrize(
    "given_header",
    [
        None,
        "",
        "nonsense",
        "t=,v1=",
        f"t={NOW}",
        f"v1={'0' * 64}",
        f"t={NOW},v1=",
        f"t={NOW},v1={'0' * 64}",
        f"t=١٢٣,v1={'0' * 64}",
        f"t={NOW},v1=\u00e9\ud800",
        header(secret=OTHER),
        header(BODY + b" "),
        header().replace("v1=", "v0="),
        f"t={NOW},{header()}",
        f"t={NOW + 1},{header().partition(',')[2]}",
        header(at=NOW - TOLERANCE_S - 1),
        header(at=NOW + TOLERANCE_S + 1),
    ],
)
def test_what_is_forged_or_not_of_now_is_refused(given_header: str | None) -> None:
    with pytest.raises(Forged):
        verified(BODY, given_header, [SECRET], NOW)


@examples
@given(body=st.binary(max_size=60), text=st.text(max_size=80))
def test_anything_at_all_is_refused_in_order(body: bytes, text: str) -> None:
    with pytest.raises(Forged):
        verified(body, text, [SECRET], NOW)
    with pytest.raises(Unreadable):
        read(body)


def test_a_notice_is_read() -> None:
    assert read(BODY) == Notice("evt_1", "acct_1", "live", "invoice.paid", BODY.decode())
    thin = {"id": "evt_test_2", "type": "v1.billing.meter.no_meter_found", "livemode": False, "context": "acct_2"}
    notice = read(orjson.dumps(thin))
    assert (notice.account, notice.mode, notice.kind) == ("acct_2", "test", thin["type"])


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        {"id": "evt_1", "type": "a"},
        {"id": "evt_1", "type": "a", "livemode": 1},
        {"id": "evt_1", "type": "", "livemode": True},
        {"id": "evt_1", "type": "a" * 201, "livemode": True},
        {"id": "evt_'; --", "type": "a", "livemode": True},
        {"id": 7, "type": "a", "livemode": True},
        {"id": "evt_1", "type": "a", "livemode": True, "account": {"id": "acct_1"}},
        {"id": "evt_1", "type": "a\0", "livemode": True},
    ],
)
def test_what_is_no_event_is_not(wrong: object) -> None:
    with pytest.raises(Unreadable):
        read(orjson.dumps(wrong))


@pytest.mark.parametrize("text", ["\0", "a\0\0b", "\\\0", "\\u0000", "\\\\\0\\"])
async def test_it_is_stored_once_whatever_it_holds(text: str, pg: asyncpg.Connection) -> None:
    event = {"id": "evt_1", "type": "v1.billing.meter.error_report_triggered", "livemode": True, "said": text}
    notice = read(orjson.dumps(event))
    assert await store(pg, notice)
    assert not await store(pg, notice)
    [kept] = await newest(pg)
    assert (kept["event_id"], kept["state"], kept["reason"]) == ("evt_1", "received", None)
    payload = orjson.loads(await pg.fetchval("SELECT payload::text FROM stripe_events"))
    assert payload["said"] == text.replace("\0", "\ufffd")
