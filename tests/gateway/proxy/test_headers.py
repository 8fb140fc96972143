"""Which fields pass, in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.fields import Fields, parse_fields
from gateway.proxy.headers import safe_value, to_client, to_upstream
from tests.gateway.http1.grammar import examples


def fields(*lines: str) -> Fields:
    return parse_fields("".join(line + "\r\n" for line in (*lines, "")).encode("latin-1"), 60)


def sent(*lines: str, credential: bytes = b"") -> list[str]:
    return to_upstream(fields(*lines), credential).decode("latin-1").splitlines()


def returned(*lines: str, drop_length: bool = False) -> list[str]:
    return to_client(fields(*lines), drop_length=drop_length).decode("latin-1").splitlines()


def test_what_is_end_to_end_passes_byte_for_byte_and_in_order() -> None:
    lines = ["Accept:  */* ", "x-Odd-CASE:\tv", "Cookie: a=1", "Cookie: b=2", "Empty:", "Content-Length: 3", "X: \xe9"]
    assert sent(*lines) == lines
    assert returned(*lines) == lines


@pytest.mark.parametrize(
    "line",
    [
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic dTpw",
        "Proxy-Authenticate: Basic",
        "TE: trailers",
        "Trailer: X-Sum",
        "Transfer-Encoding: chunked",
        "Upgrade: websocket",
    ],
)
def test_hop_by_hop_fields_end_here(line: str) -> None:
    assert sent(line, "A: b") == ["A: b"]
    assert returned(line, "A: b") == ["A: b"]


@pytest.mark.parametrize("named", ["X-Secret", "x-secret", "close, X-Secret", "X-SECRET ,keep-alive", ",x-secret,"])
def test_fields_named_by_connection_end_here_too(named: str) -> None:
    assert sent(f"Connection: {named}", "X-Secret: 1", "A: b") == ["A: b"]
    assert returned(f"Connection: {named}", "X-Secret: 1", "A: b") == ["A: b"]


def test_connection_lines_add_up() -> None:
    assert sent("Connection: close", "A: b", "Connection: x-one", "X-One: 1") == ["A: b"]


def test_the_length_cannot_be_named_away() -> None:
    assert sent("Connection: Content-Length", "Content-Length: 3") == ["Content-Length: 3"]
    assert returned("Connection: content-length", "Content-Length: 3") == ["Content-Length: 3"]


def test_an_authorization_that_is_named_away_stays_away() -> None:
    assert sent("Connection: close, Authorization", "Authorization: Basic dTpw") == []


@pytest.mark.parametrize(
    "line",
    [
        "Host: evil.test",
        "Expect: 100-continue",
        "Forwarded: for=1.2.3.4",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Proto: https",
        "X-Real-IP: 1.2.3.4",
        "X-Request-Id: forged",
        "X-User-Id: admin",
        "X-User-Plan: enterprise",
        "X_User_Id: admin",
        "x_user-id: admin",
        "X_Forwarded_For: 1.2.3.4",
        "Transfer_Encoding: chunked",
        "Content_Length: 3",
    ],
)
def test_what_a_client_claims_about_itself_does_not_pass(line: str) -> None:
    assert sent(line, "A: b") == sent(line.upper(), "A: b") == ["A: b"]


@pytest.mark.parametrize("credential", [b"authorization", b"x-api-key", b"x-token"])
def test_the_key_does_not_pass(credential: bytes) -> None:
    name = credential.decode().title()
    assert sent(f"{name}: k1", f"{name.replace('-', '_')}: k2", "A: b", credential=credential) == ["A: b"]


def test_another_kind_of_authorization_passes_beside_the_key() -> None:
    lines = ["Authorization: Basic dTpw", "X-API-Key: k1"]
    assert sent(*lines, credential=b"x-api-key") == ["Authorization: Basic dTpw"]


def test_underscores_as_such_pass() -> None:
    assert sent("X_Custom_Name: 1", "_: 2") == ["X_Custom_Name: 1", "_: 2"]


@pytest.mark.parametrize(
    "line",
    [
        "RateLimit: x",
        "RateLimit-Policy: x",
        "X-RateLimit-Limit: 5",
        "X-RateLimit-Remaining: 5",
        "X-RateLimit-Reset: 5",
        "X-Request-Id: theirs",
    ],
)
def test_what_only_the_gateway_says_is_not_said_by_an_upstream(line: str) -> None:
    assert returned(line, "Server: theirs", "Set-Cookie: a=1") == ["Server: theirs", "Set-Cookie: a=1"]


def test_the_length_is_left_out_where_the_status_forbids_one() -> None:
    assert returned("Content-Length: 0", "A: b", drop_length=True) == ["A: b"]


@given(st.text(max_size=50))
@examples
def test_no_identity_can_split_a_head(text: str) -> None:
    value = safe_value(text)
    assert len(value) == len(text)
    assert all(0x20 < byte < 0x7F for byte in value)
