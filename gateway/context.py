"""What all requests of a worker share, and what a refused one carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.auth.strangers import Strangers
from gateway.incidents import Incidents
from gateway.limits.caps import Caps
from gateway.metrics import Admission
from gateway.proxy.cache import Caches

if TYPE_CHECKING:
    from gateway.auth.tokens import Tokens
    from gateway.clock import Clock
    from gateway.limits.limiter import Limiter
    from gateway.metrics import Metrics
    from gateway.proxy.builtin import Sandbox
    from gateway.proxy.pool import Pools
    from gateway.store.nouns import Route
    from gateway.store.snapshot import Snapshot
    from ledger.problems import Problem

RETRY_SOON: Final = b"Retry-After: 1\r\n"


@dataclass(slots=True, eq=False)
class Gateway:
    """What every request of a worker process shares."""

    snapshot: Snapshot
    limiter: Limiter
    pools: Pools
    clock: Clock
    metrics: Metrics
    name: str
    shards: int
    tokens: Tokens
    is_draining: bool = False
    is_followed: bool = False
    admin: Route | None = None
    """Where requests for the admin plane go."""
    sandbox: Sandbox | None = None
    """The upstream that is told who asks."""
    incidents: Incidents = field(default_factory=Incidents)
    caps: Caps = field(default_factory=Caps)
    strangers: Strangers = field(default_factory=lambda: Strangers(0))
    caches: Caches = field(default_factory=Caches)


@dataclass(slots=True, eq=False)
class Refusal:
    """A request that goes no further: the problem, further header lines, and how it is counted."""

    problem: Problem
    headers: bytes = b""
    counted_as: Admission = Admission.UNAUTHENTICATED
    detail: str | None = None
    violated: str | None = None
    upgrade_url: str | None = None
