"""Whether a request may be sent once more. Pure.

Only where no upstream can have acted on it: the connection could not be made, or a pooled connection turned out to be
closed before a single byte of an answer, the method is idempotent and the body (if any) is still here in full. Everything
else would risk doing twice, and billing twice, what the client asked for once.
"""

from __future__ import annotations

from typing import Final

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


def may_retry(*, was_connected: bool, was_reused: bool, method: bytes, has_body: bool) -> bool:
    """True if trying again cannot repeat an effect that the first try may have had.

    was_connected: the request, or a part of it, was written to a connection.
    was_reused: that connection had served earlier requests (a fresh one that breaks has likely seen this one).
    """
    if not was_connected:
        return True
    return was_reused and method in IDEMPOTENT and not has_body
