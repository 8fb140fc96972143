"""What a finished request counts: the route's fixed quantities, the bytes and the messages that passed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from gateway.exchange import Exchange

NOTHING: Final = b'{"requests":0}'
"""What a request counts that never reached an upstream: it is an event all the same."""


class Flow(NamedTuple):
    """What the gateway itself has measured of a request by some moment; differences of two are of the time between."""

    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    duration_ms: int

    @property
    def messages(self) -> int:
        return self.messages_in + self.messages_out

    def since(self, earlier: Flow) -> Flow:
        """What has come since."""
        return Flow(*(now - then for now, then in zip(self, earlier, strict=True)))


NO_FLOW: Final = Flow(0, 0, 0, 0, 0)


def flow_of(ex: Exchange, now_ns: int) -> Flow:
    """What has passed so far. `now_ns` is monotonic."""
    tunnel = ex.tunnel
    duration_ms = (now_ns - ex.started_ns) // 1_000_000
    if tunnel is None or ex.status != 101:
        return Flow(ex.bytes_in, ex.bytes_out, 0, 0, duration_ms)
    return Flow(ex.bytes_in, ex.bytes_out, tunnel.incoming.messages, tunnel.outgoing.messages, duration_ms)


def flow_as_json(fixed: bytes, flow: Flow, *, is_tunnel: bool) -> bytes:
    """The meters of one part of a request as a JSON object; `fixed` is the inside of that object for the others."""
    comma = b"," if fixed else b""
    counted = b'%b%b"bytes_in":%d,"bytes_out":%d' % (fixed, comma, flow.bytes_in, flow.bytes_out)
    if not is_tunnel:
        return b"{%b}" % counted
    return b'{%b,"messages_in":%d,"messages_out":%d}' % (counted, flow.messages_in, flow.messages_out)


def quantities(fixed: bytes, ex: Exchange) -> bytes:
    """The meters of one served request as a JSON object.

    `fixed` is the inside of the object of fixed quantities (`"requests":1`). `bytes_in` is the request body as received,
    `bytes_out` the response body as handed to the client's socket; of a WebSocket, both are all bytes after the handshake,
    and its messages count too.
    """
    comma = b"," if fixed else b""
    tunnel = ex.tunnel
    if tunnel is None or ex.status != 101:
        return b'{%b%b"bytes_in":%d,"bytes_out":%d}' % (fixed, comma, ex.bytes_in, ex.bytes_out)
    return b'{%b%b"bytes_in":%d,"bytes_out":%d,"messages_in":%d,"messages_out":%d}' % (
        fixed,
        comma,
        ex.bytes_in,
        ex.bytes_out,
        tunnel.incoming.messages,
        tunnel.outgoing.messages,
    )
