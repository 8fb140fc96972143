"""Keeping answers: which routes may, and how much."""

from __future__ import annotations

from pydantic import Field

from ledger.spec_types import Spec


class CacheSpec(Spec):
    """A shared cache for GET (RFC 9111), in each gateway process. Only what the upstream lets be kept is kept."""

    max_bytes: int = Field(default=16 * 2**20, ge=1024, le=2**40)
    """All that is kept for the route; what was used longest ago gives way."""
    max_entry_bytes: int = Field(default=2**20, ge=1, le=2**30)
    """The largest answer that is kept."""
    wait_ms: int = Field(default=5_000, ge=0, le=600_000)
    """How long a request waits for an answer that another one is fetching, before it asks for itself; 0: not at all."""
