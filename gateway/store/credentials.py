"""What the gateway puts into requests for an upstream: a header line or a query parameter, ready made. Pure.

It lives in the snapshot, in memory only. Its `repr` shows nothing of it.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from ledger.credentials import CredentialSpec


class Injected:
    """A credential as bytes. `name` is the header's in lower case, or the parameter's; `header` or `parameter` is b""."""

    __slots__ = ("header", "name", "parameter")

    def __init__(self, name: bytes, *, header: bytes = b"", parameter: bytes = b"") -> None:
        self.name = name
        self.header = header
        self.parameter = parameter

    def __repr__(self) -> str:
        return "<Injected>"

    def into(self, query: bytes | None) -> bytes | None:
        """The query with the parameter; what a client sent under its name, in any spelling, is gone."""
        if not self.parameter:
            return query
        parts = [part for part in (query or b"").split(b"&") if part and _name_of(part) != self.name]
        return b"&".join((*parts, self.parameter))


UNAVAILABLE: Final = Injected(b"")
"""Stands for a credential that cannot be opened: nothing may be forwarded without it."""


def injected(spec: CredentialSpec, value: str) -> Injected:
    """The credential with its secret."""
    if spec.query is not None:
        name = spec.query.encode()
        return Injected(name, parameter=b"%b=%b" % (name, quote(value, safe="").encode()))
    if spec.basic is not None:
        header, text = "Authorization", "Basic " + b64encode(f"{spec.basic}:{value}".encode()).decode()
    else:
        header, text = spec.header or "", spec.prefix + value
    return Injected(header.lower().encode(), header=f"{header}: {text}\r\n".encode())


def _name_of(part: bytes) -> bytes:
    return unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" "))
