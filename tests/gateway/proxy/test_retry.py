"""When a request may be sent once more."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.proxy.retry import may_retry


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PATCH", b"BREW"])
@pytest.mark.parametrize(("was_reused", "has_body"), tuple(product((False, True), repeat=2)))
def test_what_never_reached_an_upstream_may_be_sent_again(method: bytes, was_reused: bool, has_body: bool) -> None:
    assert may_retry(was_connected=False, was_reused=was_reused, method=method, has_body=has_body)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
def test_what_died_with_a_stale_connection_may_be_sent_again_if_it_is_idempotent_and_whole(method: bytes) -> None:
    assert may_retry(was_connected=True, was_reused=True, method=method, has_body=False)
    assert not may_retry(was_connected=True, was_reused=True, method=method, has_body=True)
    assert not may_retry(was_connected=True, was_reused=False, method=method, has_body=False)


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"get", b"BREW"])
def test_what_may_have_had_an_effect_is_never_sent_again(method: bytes) -> None:
    assert not may_retry(was_connected=True, was_reused=True, method=method, has_body=False)
