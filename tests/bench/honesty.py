"""Whether a peer does what it is measured for: the right answers, and every request counted.

Raises BenchError with what was wrong.
"""

from __future__ import annotations

import socket
import ssl
import time
from http.client import HTTPException, HTTPResponse

from tests.bench.cases import ECHO, MESSAGE, Case, handshake
from tests.bench.ground import BenchError
from tests.bench.load import Generators, Load
from tests.bench.peers import Peer
from tests.bench.population import Population

_READY_S = 10.0
_EXACT = 320


def check_answer(peer: Peer, case: Case, population: Population) -> None:
    """Ask until the answer is right; wrong for 10 s is wrong. A flood is admitted until its limit is reached."""
    deadline = time.monotonic() + _READY_S
    raw = case.send(population)[0]
    while True:
        try:
            seen = _echo(peer, population) if case.is_websocket else _ask(peer, case, raw)
        except (OSError, HTTPException) as error:
            seen = f"{type(error).__name__}: {error}"
        if not seen:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"{peer.name}, {case.name}: {seen}")
        if "200" not in seen:
            time.sleep(0.1)


def check_exactly(peer: Peer, case: Case, generators: Generators) -> None:
    """A known number of requests, each counted once: by the quota, and as an event. Every key is used at least once."""
    if peer.counts() is None or case.is_websocket or case.is_tls:
        return
    peer.forget()
    sent = max(_EXACT, case.customers)
    load = generators.exactly(case, peer.port, sent)
    counts = peer.counts()
    assert counts is not None
    admitted = load.requests - load.refused
    if not admitted == counts.admitted == counts.events or (case.is_admitted and admitted != sent):
        raise BenchError(
            f"{peer.name}, {case.name}: sent {sent}, {load.errors} failed, {admitted} admitted, Redis counted {counts}"
        )


def check_load(peer: Peer, case: Case, load: Load, connections: int) -> None:
    """After a sample: what was answered was counted, apart from what the generator left in flight."""
    if load.requests == 0:
        raise BenchError(f"{peer.name}, {case.name}: not a single answer")
    counts = peer.counts()
    if counts is None or case.is_websocket:
        return
    admitted = load.requests - load.refused
    if counts.admitted != counts.events or not admitted <= counts.admitted <= admitted + connections:
        raise BenchError(
            f"{peer.name}, {case.name}: {admitted} admitted (and at most {connections} in flight), Redis counted {counts}"
        )


def _ask(peer: Peer, case: Case, raw: bytes) -> str:
    """Send one request; what is wrong with the answer, or nothing."""
    with socket.create_connection(("127.0.0.1", peer.tls_port if case.is_tls else peer.port), timeout=5) as plain:
        connection = _trusting().wrap_socket(plain) if case.is_tls else plain
        connection.sendall(raw)
        answer = HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    if answer.status != case.status:
        return f"expected status {case.status}, got {answer.status} with {body[:120]!r}"
    if case.body is not None and body != case.body:
        return f"expected a body of {len(case.body)} bytes, got {len(body)}: {body[:60]!r}"
    return ""


def _echo(peer: Peer, population: Population) -> str:
    with socket.create_connection(("127.0.0.1", peer.port), timeout=5) as connection:
        connection.sendall(handshake(population))
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = connection.recv(4096)
            if not more:
                return f"the handshake was answered with {answer[:120]!r}"
            answer += more
        if not answer.startswith(b"HTTP/1.1 101"):
            return f"the handshake was answered with {answer[:120]!r}"
        connection.sendall(MESSAGE)
        echo = connection.recv(len(ECHO), socket.MSG_WAITALL)
    return "" if echo == ECHO else f"expected the message back, got {echo[:80]!r}"


def _trusting() -> ssl.SSLContext:
    """Trusts the certificate made a moment ago for this run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
