"""What a finished request counts: the route's fixed quantities and the bytes that passed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def quantities(fixed: Mapping[str, int], *, is_charged: bool, bytes_in: int, bytes_out: int) -> dict[str, int]:
    """Meter → quantity. A request that never reached an upstream counts nothing but is still an event.

    `bytes_in` is the request body as received, `bytes_out` the response body as handed to the client's socket.
    """
    if not is_charged:
        return {**dict.fromkeys(fixed, 0), "bytes_in": 0, "bytes_out": 0}
    return {**fixed, "bytes_in": bytes_in, "bytes_out": bytes_out}
