"""The usage event's bytes: the ledger must be able to read them, whatever the request was."""

from __future__ import annotations

import pytest

from gateway.exchange import Exchange
from gateway.http1.fields import parse_fields
from gateway.http1.request import parse_request_line
from gateway.metering.event import event_of
from ledger.events import Outcome, decode
from ledger.ids import uuid7_digits
from tests.gateway.nouns import customer, plan, principal, route

AT_MS = 1_763_640_000_123


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("method", [b"GET", b"M-SEARCH", b"!#$%&'*+-.^_`|~"])
def test_the_ledger_can_read_it(method: bytes, outcome: Outcome) -> None:
    line = parse_request_line(method + b" / HTTP/1.1", 100)
    event_id = uuid7_digits(AT_MS)
    ex = Exchange(None, line, parse_fields(b"\r\n", 1), event_id, AT_MS, 1_000_000)  # type: ignore[arg-type]
    ex.status, ex.sent_ns = 200, 1_500_000
    made = plan(who=customer(external_id='a"da\\', is_known=False), key=principal(), on=route())
    raw = event_of(ex, made.identity, b'{"requests":1,"bytes_out":5}', outcome, 4_000_000)
    event = decode(raw)
    assert (event.id.hex, event.at_ms, event.method) == (event_id.decode(), AT_MS, method.decode())
    assert (event.project, event.mode, event.customer, event.external) == ("prj_acme", "live", "cus_ada", 'a"da\\')
    assert (event.key, event.route, event.status, event.outcome) == ("key_1", "rte_api", 200, outcome)
    assert (event.meters, event.duration_us, event.upstream_us) == ({"requests": 1, "bytes_out": 5}, 3_000, 2_500)


def test_a_request_that_was_never_sent_spent_no_time_with_an_upstream() -> None:
    line = parse_request_line(b"GET / HTTP/1.1", 100)
    ex = Exchange(None, line, parse_fields(b"\r\n", 1), uuid7_digits(AT_MS), AT_MS, 1_000)  # type: ignore[arg-type]
    event = decode(event_of(ex, plan(on=route()).identity, b'{"requests":0}', Outcome.CLIENT_GONE, 9_000))
    assert (event.upstream_us, event.duration_us, event.key, event.customer) == (0, 8, None, None)
