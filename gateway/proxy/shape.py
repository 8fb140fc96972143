"""What a route changes in the heads of its upstream's answers. Pure but for the memory of the last head.

An upstream repeats its heads (gateway.proxy.upstream keeps one `Response` for as long as it does), so a shape remembers
what it made of the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http1.response import forbids_framing
from gateway.proxy.headers import to_client

if TYPE_CHECKING:
    from gateway.proxy.upstream import Response


class Shape:
    """`dropped` fields do not pass (names in lower case), `lines` are put in."""

    __slots__ = ("_dropped", "_last", "_lead", "_lines")

    def __init__(self, dropped: frozenset[bytes], lines: bytes) -> None:
        self._dropped = dropped
        self._lines = lines
        self._last: Response | None = None
        self._lead = b""

    def lead(self, response: Response) -> bytes:
        """The head's status line and the fields that go to the client."""
        if response is not self._last:
            status_line = response.lead[: response.lead.index(b"\r\n") + 2]
            fields = to_client(response.fields, drop_length=forbids_framing(response.status), also=self._dropped)
            self._last, self._lead = response, status_line + fields + self._lines
        return self._lead
