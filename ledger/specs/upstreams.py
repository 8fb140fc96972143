"""Where requests go, and how connections to there are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ledger.credentials import CredentialSpec, credential_mapping
from ledger.health import ActiveHealthSpec, PassiveHealthSpec
from ledger.spec_types import Spec
from ledger.specs.text import Name, OriginUrl


class TargetSpec(Spec):
    """One origin of an upstream, such as https://api.example.com/base."""

    url: OriginUrl
    weight: int = Field(default=1, ge=1, le=1000)


def _bare_target(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class UpstreamSpec(Spec):
    """Where requests go: one or more origins and how connections to them are kept."""

    name: Name
    targets: tuple[Annotated[TargetSpec, BeforeValidator(_bare_target)], ...] = Field(min_length=1, max_length=64)
    connect_timeout_ms: int = Field(default=5_000, ge=1, le=600_000)
    keepalive_ms: int = Field(default=4_000, ge=0, le=600_000)
    """How long an idle connection is kept. Below the upstream's own limit, or requests meet a closing connection."""
    max_connections: int = Field(default=1_000, ge=1, le=100_000)
    balance: Literal["weighted", "least_outstanding"] = "weighted"
    """Targets take turns by weight, or the one with the fewest requests under way for its weight is next."""
    passive_health: PassiveHealthSpec | None = None
    """Without it: of one target, none; of several, the default, and all are tried where none is left."""
    active_health: ActiveHealthSpec | None = None
    credential: Annotated[CredentialSpec, BeforeValidator(credential_mapping)] | None = None
    """How the gateway makes itself known to the upstream, whoever the client is."""
