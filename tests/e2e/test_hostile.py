"""Requests that no honest client sends, byte by byte through the real gateway.

What is asked of every refusal: the right status as problem+json with a request id, nothing at the origin, the
connection ended where the next request could begin in two places, and the next request on a new connection unharmed.
Every malformed request here is followed by a well-formed one on the same connection, which must not be taken for a
request when the first one left its end in doubt.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from ledger.keys import KeyKind, Mode, generate
from tests.e2e import raw
from tests.e2e.books import Books
from tests.e2e.conftest import Door, Origins
from tests.e2e.stack import Stack

Through = Callable[[str], Door]

_KEY = b"@KEY@"
_NEXT = b"GET /strict/count?id=@ID@ HTTP/1.1\r\nHost: e2e\r\nX-API-Key: @KEY@\r\n\r\n"
"""Sent after a malformed request; it must never arrive as a request of its own."""


def _get(
    *lines: bytes, target: bytes = b"/strict/count", version: bytes = b"HTTP/1.1", method: bytes = b"GET"
) -> bytes:
    """A request with a good key and further header lines; each line is sent as it is."""
    return b"\r\n".join(
        [method + b" " + target + b" " + version, b"Host: e2e", b"X-API-Key: " + _KEY, *lines, b"", b""]
    )


_MALFORMED = {
    "content-length and transfer-encoding": (
        _get(b"Content-Length: 4", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n",
        400,
    ),
    "two different lengths": (_get(b"Content-Length: 4", b"Content-Length: 5", method=b"POST") + b"abcde", 400),
    "two equal lengths": (_get(b"Content-Length: 2", b"Content-Length: 2", method=b"POST") + b"ab", 400),
    "a list of lengths": (_get(b"Content-Length: 2, 2", method=b"POST") + b"ab", 400),
    "a signed length": (_get(b"Content-Length: +2", method=b"POST") + b"ab", 400),
    "a negative length": (_get(b"Content-Length: -1", method=b"POST"), 400),
    "a hexadecimal length": (_get(b"Content-Length: 0x2", method=b"POST") + b"ab", 400),
    "a huge length": (_get(b"Content-Length: " + b"9" * 40, method=b"POST"), 400),
    "an empty length": (_get(b"Content-Length:", method=b"POST"), 400),
    "chunked twice": (_get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", method=b"POST"), 400),
    "chunked not last": (_get(b"Transfer-Encoding: chunked, identity", method=b"POST"), 400),
    "an unknown coding": (_get(b"Transfer-Encoding: gzip, chunked", method=b"POST"), 501),
    "a misspelt coding": (_get(b"Transfer-Encoding: xchunked", method=b"POST"), 400),
    "a coding with a vertical tab": (_get(b"Transfer-Encoding: \x0bchunked", method=b"POST"), 400),
    "chunked from http/1.0": (_get(b"Transfer-Encoding: chunked", method=b"POST", version=b"HTTP/1.0"), 400),
    "bare lf after the request line": (_get().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"), 400),
    "bare lf after a field": (_get(b"A: b\nC: d"), 400),
    "bare lf everywhere": (_get().replace(b"\r\n", b"\n"), 400),
    "bare cr in a value": (_get(b"A: b\rC: d"), 400),
    "a folded line": (_get(b"A: b\r\n c"), 400),
    "a folded first line": (_get().replace(b"\r\nHost", b"\r\n A: b\r\nHost"), 400),
    "nul in a value": (_get(b"A: b\0c"), 400),
    "nul in a name": (_get(b"A\0: b"), 400),
    "a control character in a value": (_get(b"A: b\x01c"), 400),
    "a blank before the colon": (_get(b"Content-Length : 4"), 400),
    "a blank in a name": (_get(b"A B: c"), 400),
    "no colon": (_get(b"nonsense"), 400),
    "an empty name": (_get(b": value"), 400),
    "a name that is no token": (_get(b"A(b): c"), 400),
    "no host": (_get().replace(b"Host: e2e\r\n", b""), 400),
    "two hosts": (_get(b"Host: other"), 400),
    "a host with a path": (_get().replace(b"Host: e2e", b"Host: e2e/strict"), 400),
    "a host with a blank": (_get().replace(b"Host: e2e", b"Host: e2e other"), 400),
    "two blanks in the request line": (_get().replace(b"GET ", b"GET  "), 400),
    "a tab in the request line": (_get().replace(b"GET ", b"GET\t"), 400),
    "a blank after the version": (_get().replace(b"HTTP/1.1\r\n", b"HTTP/1.1 \r\n"), 400),
    "no version": (_get().replace(b" HTTP/1.1\r\n", b"\r\n"), 400),
    "version 2.0": (_get(version=b"HTTP/2.0"), 505),
    "version 0.9": (_get(version=b"HTTP/0.9"), 505),
    "version 1.2": (_get(version=b"HTTP/1.2"), 505),
    "a version in lower case": (_get(version=b"http/1.1"), 400),
    "a version with a sign": (_get(version=b"HTTP/+1.1"), 400),
    "an http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
    "a method that is no token": (_get(method=b"G@T"), 400),
    "absolute form": (_get(target=b"http://e2e/strict/count"), 400),
    "absolute form with another host": (_get(target=b"https://elsewhere.example/strict/count"), 400),
    "authority form": (_get(target=b"e2e:80"), 400),
    "connect": (b"CONNECT e2e:443 HTTP/1.1\r\nHost: e2e:443\r\nX-API-Key: " + _KEY + b"\r\n\r\n", 501),
    "trace": (_get(method=b"TRACE"), 405),
    "an asterisk that is not options": (_get(target=b"*"), 400),
    "a dot segment": (_get(target=b"/strict/../admin/x"), 400),
    "a dot segment at the end": (_get(target=b"/strict/.."), 400),
    "an escaped dot segment": (_get(target=b"/strict/%2e%2e/admin"), 400),
    "a half escaped dot segment": (_get(target=b"/strict/.%2E/admin"), 400),
    "a single dot": (_get(target=b"/strict/./count"), 400),
    "a dot segment behind an escaped slash": (_get(target=b"/strict/..%2fadmin"), 400),
    "a dot segment before a parameter": (_get(target=b"/strict/..;/admin"), 400),
    "an escaped nul": (_get(target=b"/strict/count%00.json"), 400),
    "a malformed escape": (_get(target=b"/strict/%zz"), 400),
    "half an escape": (_get(target=b"/strict/%4"), 400),
    "a backslash": (_get(target=b"/strict\\count"), 400),
    "a fragment": (_get(target=b"/strict/count#top"), 400),
    "raw bytes in the target": (_get(target=b"/strict/\xff\xfe"), 400),
    "a control character in the target": (_get(target=b"/strict/\x7f"), 400),
    "a raw quote in the query": (_get(target=b'/strict/count?a="<b>"'), 400),
    "a long target": (_get(target=b"/strict/" + b"a" * 9_000), 414),
    "a long query": (_get(target=b"/strict/count?" + b"a" * 9_000), 414),
    "too many fields": (_get(*(b"A%d: b" % number for number in range(150))), 431),
    "a long field": (_get(b"A: " + b"b" * 40_000), 431),
    "many long fields": (_get(*(b"A%d: " % number + b"b" * 900 for number in range(60))), 431),
    "an endless request line": (b"GET /" + b"a" * 60_000, 414),
    "an endless field": (b"GET / HTTP/1.1\r\nHost: e2e\r\nA: " + b"b" * 60_000, 431),
    "an unknown expectation": (_get(b"Expect: the-unexpected"), 417),
}


@pytest.mark.parametrize("name", _MALFORMED)
def test_malformed(stack: Stack, origins: Origins, name: str) -> None:
    data, status = _MALFORMED[name]
    key = stack.secret_key.encode()
    before = origins.strict.total()
    with raw.Connection(stack.gateway) as connection:
        connection.send((data + _NEXT).replace(_KEY, key))
        answer = connection.read(head_only=False)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        problem = answer.json()
        assert problem["status"] == status
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert connection.is_closed()
    if status == 405:
        assert "allow" in answer.headers
    assert origins.strict.total() == before
    assert raw.get(f"{stack.gateway}/strict/count", {"X-API-Key": stack.secret_key}).body == b"ok"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"zz\r\nabc\r\n0\r\n\r\n", "a size that is no number"),
        (b"3\r\nabcdef\r\n0\r\n\r\n", "more data than announced"),
        (b"-3\r\nabc\r\n0\r\n\r\n", "a negative size"),
        (b"0x3\r\nabc\r\n0\r\n\r\n", "a prefixed size"),
        (b"3 \r\nabc\r\n0\r\n\r\n", "a blank after the size"),
        (b"3\nabc\n0\n\n", "bare lf"),
        (b"fffffffffffffffff\r\nabc", "a size beyond any number"),
        (b"3\r\nabc\r\n0\r\nA b: c\r\n\r\n", "a trailer that is no field"),
        (b"3;" + b"e" * 70_000 + b"\r\nabc\r\n0\r\n\r\n", "an endless extension"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_chunked_body(stack: Stack, origins: Origins, body: bytes, name: str) -> None:
    """The head is fine, so the origin may have seen it; it must never see a whole request, and no second one."""
    key = stack.secret_key.encode()
    request_id, smuggled = secrets.token_hex(6), secrets.token_hex(6)
    head = _get(b"Transfer-Encoding: chunked", method=b"POST", target=b"/strict/echo?id=" + request_id.encode())
    with raw.Connection(stack.gateway) as connection:
        connection.send((head + body + _NEXT.replace(b"@ID@", smuggled.encode())).replace(_KEY, key))
        answer = connection.read()
        assert answer.status == 400
        assert connection.is_closed()
    assert origins.strict.seen(request_id) <= 1
    assert origins.strict.seen(smuggled) == 0
    assert raw.get(f"{stack.gateway}/strict/count", {"X-API-Key": stack.secret_key}).body == b"ok"


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        (b"/strict//echo", "/echo"),
        (b"//strict/echo", "/echo"),
        (b"/%73trict/ech%6f", "/echo"),
        (b"/strict/echo?a=//..%00&b=%2e", "/echo?a=//..%00&b=%2e"),
        (b"/strict/echo?", "/echo?"),
        (b"/strict/echo?a=b?c=/d", "/echo?a=b?c=/d"),
    ],
)
def test_other_spellings_of_a_path_mean_the_same_route(stack: Stack, target: bytes, forwarded: str) -> None:
    answer = raw.ask(stack.gateway, _get(target=target).replace(_KEY, stack.secret_key.encode()))
    assert (answer.status, answer.json()["target"]) == (200, forwarded)


def test_requests_in_a_pipeline_are_answered_in_order(stack: Stack) -> None:
    one = _get(target=b"/strict/echo?n=%d").replace(_KEY, stack.secret_key.encode())
    with raw.Connection(stack.gateway) as connection:
        connection.send(b"".join(one.replace(b"%d", b"%d" % n) for n in range(10)))
        targets = [connection.read().json()["target"] for _ in range(10)]
    assert targets == [f"/echo?n={n}" for n in range(10)]


def test_a_request_cut_in_every_place_is_one_request(stack: Stack) -> None:
    request = _get(b"Content-Length: 5", method=b"POST", target=b"/strict/echo") + b"hello"
    request = request.replace(_KEY, stack.secret_key.encode())
    with raw.Connection(stack.gateway) as connection:
        for cut in range(1, len(request), 7):
            connection.send(request[:cut])
            connection.send(request[cut:])
            assert connection.read().json()["length"] == 5


def test_a_method_that_the_route_does_not_take(stack: Stack, origins: Origins) -> None:
    before = origins.strict.total()
    answer = raw.get(f"{stack.gateway}/narrow/count", {"X-API-Key": stack.secret_key}, method="DELETE")
    assert (answer.status, answer.json()["code"]) == (405, "method_not_allowed")
    assert {method.strip() for method in answer.headers["allow"].split(",")} >= {"GET", "POST"}
    assert origins.strict.total() == before


def test_a_path_without_a_route(stack: Stack) -> None:
    answer = raw.get(f"{stack.gateway}/nowhere", {"X-API-Key": stack.secret_key})
    assert (answer.status, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_above_the_limit_of_its_route(stack: Stack, framing: str) -> None:
    key = stack.secret_key.encode()
    if framing == "length":
        data = _get(b"Content-Length: 2000", method=b"POST", target=b"/tiny/echo") + bytes(2000)
    else:
        data = _get(b"Transfer-Encoding: chunked", method=b"POST", target=b"/tiny/echo")
        data += b"7d0\r\n" + bytes(2000) + b"\r\n0\r\n\r\n"
    with raw.Connection(stack.gateway) as connection:
        connection.send(data.replace(_KEY, key))
        answer = connection.read()
        assert (answer.status, answer.json()["code"]) == (413, "body_too_large")
    assert raw.get(f"{stack.gateway}/tiny/echo", {"X-API-Key": stack.secret_key}, "POST", bytes(1000)).status == 200


# Credentials


def _credentials(stack: Stack) -> dict[str, tuple[list[str], str]]:
    key = stack.secret_key
    unknown = generate(KeyKind.SECRET, Mode.LIVE).text
    mistyped = key[:20] + ("A" if key[20] != "A" else "B") + key[21:]
    return {
        "none": ([], "no_credential"),
        "another scheme": (["Authorization: Basic bWU6c2VjcmV0"], "no_credential"),
        "an empty key": (["X-API-Key:"], "bad_credential"),
        "an empty bearer": (["Authorization: Bearer"], "bad_credential"),
        "a word": (["X-API-Key: secret"], "bad_credential"),
        "a mistyped key": ([f"X-API-Key: {mistyped}"], "bad_credential"),
        "a key cut short": ([f"X-API-Key: {key[:-1]}"], "bad_credential"),
        "a key and more": ([f"X-API-Key: {key}x"], "bad_credential"),
        "a key in other letters": ([f"X-API-Key: {key.swapcase()}"], "bad_credential"),
        "a key nobody made": ([f"X-API-Key: {unknown}"], "bad_credential"),
        "raw bytes": (["X-API-Key: \xff\xfe"], "bad_credential"),
        "the same key twice": ([f"X-API-Key: {key}", f"X-API-Key: {key}"], "conflicting_credentials"),
        "two bearers": (
            [f"Authorization: Bearer {key}", f"Authorization: Bearer {unknown}"],
            "conflicting_credentials",
        ),
        "bearer and header": ([f"Authorization: Bearer {key}", f"X-API-Key: {key}"], "conflicting_credentials"),
        "a good and a bad one": ([f"X-API-Key: {key}", "Authorization: Bearer x"], "conflicting_credentials"),
    }


def test_credentials_that_are_refused(stack: Stack, origins: Origins) -> None:
    before = origins.strict.total()
    for name, (lines, code) in _credentials(stack).items():
        head = b"\r\n".join([b"GET /strict/count HTTP/1.1", b"Host: e2e", *(line.encode("latin-1") for line in lines)])
        with raw.Connection(stack.gateway) as connection:
            connection.send(head + b"\r\n\r\n")
            answer = connection.read()
            assert (answer.status, answer.json()["code"]) == (401, code), name
            assert "www-authenticate" in answer.headers, name
            connection.send(_get().replace(_KEY, stack.secret_key.encode()))
            assert connection.read().body == b"ok", f"{name}: the connection is as good as before"
    assert origins.strict.total() == before + len(_credentials(stack))


@pytest.mark.parametrize("where", ["bearer", "lower case bearer", "x-api-key", "custom header", "query"])
def test_credentials_that_are_taken_and_not_passed_on(stack: Stack, where: str) -> None:
    key = stack.secret_key
    headers, query = {
        "bearer": ({"Authorization": f"Bearer {key}"}, ""),
        "lower case bearer": ({"authorization": f"bearer {key}"}, ""),
        "x-api-key": ({"x-api-key": key}, ""),
        "custom header": ({"X-Custom-Key": key}, ""),
        "query": ({}, f"&api_key={key}"),
    }[where]
    answer = raw.get(f"{stack.gateway}/named/echo?a=1{query}", headers)
    assert answer.status == 200, answer.body
    assert key not in answer.body.decode()
    assert answer.json()["target"] == "/echo?a=1"


def test_a_named_header_counts_only_on_its_route(stack: Stack) -> None:
    assert raw.get(f"{stack.gateway}/strict/count", {"X-Custom-Key": stack.secret_key}).status == 401
    both = {"X-Custom-Key": stack.secret_key, "X-API-Key": stack.secret_key}
    assert raw.get(f"{stack.gateway}/named/count", both).json()["code"] == "conflicting_credentials"


async def test_an_expired_key(stack: Stack) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=700)
    key = stack.create_key(name="short-lived", expiresAt=soon.isoformat())["key"]
    url = f"{stack.gateway}/strict/count"
    assert raw.get(url, {"X-API-Key": key}).status == 200
    await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.05)  # the expiry itself is what is waited for
    answer = raw.get(url, {"X-API-Key": key})
    assert (answer.status, answer.json()["code"]) == (401, "key_expired")


def test_a_revoked_key(stack: Stack) -> None:
    made = stack.create_key(name="revoked")
    stack.revoke_key(made["id"])
    answer = raw.get(f"{stack.gateway}/strict/count", {"X-API-Key": made["key"]})
    assert (answer.status, answer.json()["code"]) == (401, "key_revoked")


def test_a_publishable_key_only_reads(stack: Stack) -> None:
    key = stack.create_key(name="browser", kind="pk")["key"]
    url = f"{stack.gateway}/strict/count"
    assert raw.get(url, {"X-API-Key": key}).status == 200
    answer = raw.get(url, {"X-API-Key": key}, "POST", b"x")
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")


async def test_only_a_secret_key_acts_for_someone_else(stack: Stack, books: Books, customer: str) -> None:
    key = stack.create_key(name="ada's", kind="ck", customer="ada")["key"]
    url = f"{stack.gateway}/strict/count"
    answer = raw.get(url, {"X-API-Key": key, "X-User-Id": customer, "X-User-Plan": "hundred"})
    assert (answer.status, "ratelimit" in answer.headers) == (200, False), "what it says of others is ignored"
    await books.balanced()
    assert await books.events(customer) == []
    unknown = raw.get(url, {"X-API-Key": stack.secret_key, "X-User-Id": customer, "X-User-Plan": "none-such"})
    assert (unknown.status, unknown.json()["code"]) == (403, "tier_unknown")
    assert raw.get(url, {"X-API-Key": stack.secret_key, "X-User-Id": "two words"}).status == 400
