"""What a finished request counts: the route's fixed quantities and the bytes that passed. Pure."""

from __future__ import annotations

from typing import Final

NOTHING: Final = b'{"requests":0}'
"""What a request counts that never reached an upstream: it is an event all the same."""


def quantities(fixed: bytes, bytes_in: int, bytes_out: int) -> bytes:
    """The meters of one served request as a JSON object.

    `fixed` is the inside of the object of fixed quantities (`"requests":1`), `bytes_in` the request body as received,
    `bytes_out` the response body as handed to the client's socket.
    """
    return b'{%b%b"bytes_in":%d,"bytes_out":%d}' % (fixed, b"," if fixed else b"", bytes_in, bytes_out)
