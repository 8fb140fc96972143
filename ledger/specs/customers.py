"""Whom a project serves, and the keys that it gives them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import Field, model_validator

from ledger.keys import KeyKind, Mode
from ledger.spec_types import Network, Origin, Spec
from ledger.specs.text import Email, ExternalId, Modes, Name, Title


class CustomerSpec(Spec):
    """Whoever a project serves and meters. `tier` starts a subscription; without it the default tier applies."""

    external_id: ExternalId
    name: Title | None = None
    email: Email | None = None
    tier: Name | None = None
    modes: Modes = (Mode.TEST, Mode.LIVE)


class KeySpec(Spec):
    """A key to be made. Its text is shown once, in the answer; files never hold keys."""

    name: Title
    kind: KeyKind = KeyKind.SECRET
    mode: Mode = Mode.TEST
    customer: ExternalId | None = None
    scopes: tuple[Name, ...] = ()
    requests_per_minute: int | None = Field(default=None, ge=1, le=10_000)
    allowed_origins: tuple[Origin, ...] = ()
    allowed_ips: tuple[Network, ...] = ()
    expires_at: datetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_customer_says_the_kind(cls, given: Any) -> Any:
        """Who names a customer and no kind wants that customer's key."""
        if isinstance(given, dict) and given.get("kind") is None and given.get("customer") is not None:
            return {**given, "kind": KeyKind.CUSTOMER}
        return given

    @model_validator(mode="after")
    def _customer_keys_have_a_customer(self) -> Self:
        if (self.kind is KeyKind.CUSTOMER) != (self.customer is not None):
            raise ValueError("a ck key needs a customer, and only a ck key has one")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError("expires_at needs a time zone, such as 2027-01-31T00:00:00Z")
        if self.expires_at is not None and not 2000 <= self.expires_at.year < 9000:
            raise ValueError("expires_at: expected a year from 2000 to 8999")
        return self
