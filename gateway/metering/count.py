"""What a finished request counts: the route's fixed quantities, the bytes and the messages that passed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.exchange import Exchange

NOTHING: Final = b'{"requests":0}'
"""What a request counts that never reached an upstream: it is an event all the same."""


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
