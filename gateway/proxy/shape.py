"""What a route changes in the heads of its upstream's answers. Pure but for the memory of the last head.

An upstream repeats its heads, often on all of its connections, so a shape remembers what it made of the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http1.response import forbids_framing
from gateway.proxy.headers import to_client

if TYPE_CHECKING:
    from gateway.proxy.upstream import Response


class Shape:
    """`dropped` fields do not pass (names in lower case), `lines` are put in.

    `own` are lines for these answers and for those that the gateway itself gives in their place.
    """

    __slots__ = ("_dropped", "_last", "_lead", "_lines", "own")

    def __init__(self, dropped: frozenset[bytes], lines: bytes, own: bytes = b"") -> None:
        self._dropped = dropped
        self._lines = lines + own
        self.own = own
        self._last = b""
        self._lead = b""

    def lead(self, response: Response) -> bytes:
        """The head's status line and the fields that go to the client."""
        lead = response.lead
        if lead != self._last:
            status_line = lead[: lead.index(b"\r\n") + 2]
            fields = to_client(response.fields, drop_length=forbids_framing(response.status), also=self._dropped)
            self._last, self._lead = lead, status_line + fields + self._lines
        return self._lead
