"""What the gateway tells the sandbox and nobody else: whose request it is, and that it is the gateway that says so. Pure.

The sandbox is an ordinary upstream that is known by the URLs of its nodes (`gateway.sandbox_url`, commas between them). An
upstream is told nothing unless all of its targets are among them: the secret goes nowhere else. Clients and declarations
cannot send these fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.proxy.headers import safe_value

if TYPE_CHECKING:
    from ledger.specs import UpstreamSpec


def nodes_of(urls: str) -> frozenset[str]:
    """The nodes in a setting, without trailing slashes."""
    return frozenset(url.strip().rstrip("/") for url in urls.split(",") if url.strip())


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where its nodes are, and the secret that both know."""

    urls: frozenset[str]
    secret: str

    def is_behind(self, upstream: UpstreamSpec) -> bool:
        """True if every target of an upstream is the sandbox."""
        return all(target.url.rstrip("/") in self.urls for target in upstream.targets)

    def lines(self, project_id: str, mode: str, customer_id: str, kind: str) -> bytes:
        """The field lines about a caller. `kind` is that of the key (sk, pk, ck), `jwt`, or `none`."""
        return b"".join(
            b"X-Tollgate-%b: %b\r\n" % (name, safe_value(value))
            for name, value in (
                (b"Secret", self.secret),
                (b"Project", project_id),
                (b"Mode", mode),
                (b"Customer", customer_id),
                (b"Key-Kind", kind),
            )
        )
