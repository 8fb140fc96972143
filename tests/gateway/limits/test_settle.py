"""The settle script on a real Redis: once and for all, however often it is sent."""

from __future__ import annotations

from gateway.limits.calls import SETTLE
from tests.gateway.limits.scripts import RESERVATIONS, STREAM, Ask, Scripts

EVENT = "a" * 32
ASK = Ask(quotas=[("q", 10, 4), ("tokens", -1, 100)])


def test_a_served_request_keeps_its_quota_and_becomes_an_event(scripts: Scripts) -> None:
    scripts.admit(ASK, EVENT)
    assert scripts.settle((EVENT, '{"id":1}', {})) == 1
    assert scripts.everything() == {b"q": b"4", b"tokens": b"100", STREAM.encode(): [{b"e": b'{"id":1}'}]}


def test_a_request_that_was_never_served_gets_everything_back(scripts: Scripts) -> None:
    scripts.admit(ASK, EVENT)
    scripts.settle((EVENT, "", {"q": -4, "tokens": -100}))
    assert scripts.everything() == {b"q": b"0", b"tokens": b"0"}
    assert scripts.redis.ttl("q") > 0


def test_sent_twice_it_gives_back_once_and_says_the_event_again(scripts: Scripts) -> None:
    scripts.admit(Ask(quotas=[("q", 10, 4)]), "b" * 32)  # another request, whose quota must not be touched
    scripts.admit(Ask(quotas=[("q", 10, 4)]), EVENT)
    entry = (EVENT, '{"id":1}', {"q": -4})
    scripts.settle(entry)
    scripts.settle(entry)
    assert scripts.redis.get("q") == b"4"
    assert scripts.redis.hkeys(RESERVATIONS) == [b"b" * 32]
    assert scripts.redis.xlen(STREAM) == 2  # the ledger stores an event id once


def test_what_was_never_admitted_gives_nothing_back(scripts: Scripts) -> None:
    scripts.settle((EVENT, "", {"q": -4}))
    assert scripts.everything() == {}


def test_a_counter_that_has_expired_is_not_brought_back(scripts: Scripts) -> None:
    scripts.admit(ASK, EVENT)
    scripts.redis.delete("q")
    scripts.settle((EVENT, "", {"q": -4, "tokens": -100}))
    assert scripts.everything() == {b"tokens": b"0"}


def test_an_event_may_be_wanted_only_if_the_reservation_was_held(scripts: Scripts) -> None:
    scripts.admit(ASK, EVENT)
    keys, held, not_held = [RESERVATIONS, STREAM] * 2, [EVENT, "held", -1], ["b" * 32, "never admitted", -1]
    scripts.redis.eval(SETTLE, 4, *keys, *held, *not_held)
    scripts.redis.eval(SETTLE, 2, *keys[:2], *held)  # sent again
    assert [fields for _, fields in scripts.redis.xrange(STREAM)] == [{b"e": b"held"}]
    assert (scripts.redis.get("q"), scripts.redis.hlen(RESERVATIONS)) == (b"4", 0)


def test_a_batch_settles_each_of_its_entries(scripts: Scripts) -> None:
    ids = [f"{n:032x}" for n in range(5)]
    for event_id in ids:
        scripts.admit(Ask(quotas=[("q", -1, 4), ("tokens", -1, 100)]), event_id)
    scripts.settle(
        (ids[0], "zero", {}),
        (ids[1], "", {"q": -4, "tokens": -100}),
        (ids[2], "two", {"q": -3}),
        (ids[3], "", {"q": -4}),
    )
    assert scripts.redis.hkeys(RESERVATIONS) == [ids[4].encode()]
    assert (scripts.redis.get("q"), scripts.redis.get("tokens")) == (b"9", b"400")
    assert [fields[b"e"] for _, fields in scripts.redis.xrange(STREAM)] == [b"zero", b"two"]
