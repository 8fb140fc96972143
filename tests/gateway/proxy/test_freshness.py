"""What may be kept, for how long and for whom: the arithmetic of RFC 9111."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.fields import Fields, parse_fields
from gateway.http1.response import LENGTH, UNTIL_CLOSE
from gateway.proxy.freshness import Lifetime, directives, is_unchanged, lifetime, may_be_told, nominated, varying

NOW = 1_700_000_000.0


def fields(*lines: str) -> Fields:
    return parse_fields("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"), 100)


def date(seconds: float) -> str:
    return formatdate(NOW + seconds, usegmt=True)


def found(*lines: str, is_identified: bool = False, status: int = 200, framing: int = LENGTH) -> Lifetime | None:
    return lifetime(status, framing, fields(*lines), is_identified=is_identified, now=NOW, delay_s=2.5)


@pytest.mark.parametrize(
    ("lines", "fresh_s", "age_s"),
    [
        (["Cache-Control: max-age=60"], 60, 2),
        (["Cache-Control: MAX-AGE=60 , s-maxage=30"], 30, 2),
        (['Cache-Control: max-age="60"'], 60, 2),
        (["Cache-Control: max-age=60", "Expires: " + date(999)], 60, 2),
        (["Expires: " + date(100)], 100, 2),
        (["Expires: " + date(100), "Date: " + date(-10)], 110, 10),
        (["Cache-Control: max-age=60", "Date: " + date(-20)], 60, 20),
        (["Cache-Control: max-age=60", "Date: " + date(+20)], 60, 2),
        (["Cache-Control: max-age=60", "Age: 30"], 60, 32),
        (["Cache-Control: max-age=60", "Age: nonsense"], 60, 2),
        (["Cache-Control: max-age=99999999999999999999"], 2**31, 2),
        (["Cache-Control: max-age=x", "Expires: " + date(100)], 0, 2),
        (["Expires: 0"], 0, 2),
    ],
)
def test_how_long(lines: list[str], fresh_s: int, age_s: int) -> None:
    assert found(*lines) == Lifetime(fresh_s, age_s)


def test_what_is_quoted_is_no_directive() -> None:
    said = directives(
        fields('Cache-Control: ext="a, public, no-store", max-age=5', 'Cache-Control: private="x, y", ,=,')
    )
    assert (said[b"max-age"], b"public" in said, b"no-store" in said, b"private" in said) == (b"5", False, False, True)
    assert directives(fields()).get(b"max-age") is None


def test_not_without_an_end_nor_in_part() -> None:
    assert found("Cache-Control: max-age=60", framing=UNTIL_CLOSE) is None
    assert found("Cache-Control: max-age=60", "Content-Range: bytes 0-1/2") is None
    assert found("Cache-Control: max-age=60", status=206) is None


@pytest.mark.parametrize(("said", "is_kept"), [("max-age=9", False), ("public, max-age=9", True), ("s-maxage=9", True)])
def test_who_was_identified_shares_what_is_public(said: str, is_kept: bool) -> None:
    assert (found(f"Cache-Control: {said}", is_identified=True) is not None) is is_kept


@pytest.mark.parametrize(
    ("vary", "names"),
    [("", ()), ("Accept, ,ACCEPT , a", (b"a", b"accept")), ("*", None), ("Accept, *", None), ("x-user-id", None),
     ("Authorization", None), ("X-Forwarded-Host", None), ("X-API-Key", None), ("Origin", (b"origin",))],
)  # fmt: skip
def test_what_an_answer_depends_on(vary: str, names: tuple[bytes, ...] | None) -> None:
    assert varying(fields(f"Vary: {vary}")) == names


def test_what_a_request_says_about_it() -> None:
    request = fields("Accept: a", "accept: b", "X: y")
    assert nominated(request, (b"accept", b"missing")) == (b"a,b", b"")


@pytest.mark.parametrize(
    ("wanted", "age_s", "is_told"),
    [("", 59, True), ("", 60, False), ("max-age=10", 10, True), ("max-age=10", 11, False), ("min-fresh=10", 49, True),
     ("min-fresh=10", 50, False), ("no-cache", 0, False), ("no-store", 0, False), ("max-stale", 60, False)],
)  # fmt: skip
def test_whether_it_will_do(wanted: str, age_s: int, is_told: bool) -> None:
    assert may_be_told(directives(fields(f"Cache-Control: {wanted}")), Lifetime(60, 0), age_s) is is_told


def test_the_tag_decides_before_the_date() -> None:
    kept = fields('ETag: "1"', "Last-Modified: " + date(-10))
    assert not is_unchanged(fields('If-None-Match: "2"', "If-Modified-Since: " + date(0)), kept)
    assert is_unchanged(fields('If-None-Match: "2", "1"'), kept)
    assert not is_unchanged(fields(), kept)
    assert not is_unchanged(fields('If-None-Match: ""'), fields("A: b"))


@pytest.mark.parametrize("filling", ["a", "a ", '"', ",", "=", 'a="', "max-age=1,", "\t"])
def test_a_long_field_costs_little(filling: str) -> None:
    long = fields(
        f"Cache-Control: {filling * (30_000 // len(filling))}b c",
        f"Vary: {'x,' * 15_000}",
        f"If-None-Match: {filling * 9}",
    )
    began = time.process_time()
    directives(long)
    varying(long)
    is_unchanged(long, long)
    assert time.process_time() - began < 0.1


@given(st.lists(st.text(alphabet='max-age=0123 ,"s-publicnotre', max_size=40), max_size=3))
def test_no_field_breaks_it(values: list[str]) -> None:
    answer = found(*(f"Cache-Control: {value}" for value in values), *(f"Expires: {value}" for value in values))
    assert answer is None or 0 <= answer.fresh_s <= 2**31
