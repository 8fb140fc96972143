"""A project's plans: price, limits, quotas."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ledger.keys import Mode
from ledger.spec_types import Spec
from ledger.specs.text import AtOnce, Currency, MeterName, Modes, Money, Name, PageUrl, PerMinute, Text, Title


class QuotaSpec(Spec):
    """How much of one meter a tier includes per period. In YAML a bare number is a hard limit, `null` is unlimited."""

    limit: int | None = Field(default=None, ge=0, le=2**53)
    hard: bool = True
    overage_price: Decimal | None = Field(default=None, ge=0, max_digits=20, decimal_places=10)
    """Minor units of the tier's currency per unit beyond the limit; only where `hard` is false."""

    @model_validator(mode="after")
    def _overage_only_when_soft(self) -> Self:
        if self.hard and self.overage_price is not None:
            raise ValueError("overage_price needs hard: false")
        return self


def _bare_quota(value: Any) -> Any:
    return {"limit": value} if value is None or (isinstance(value, int) and not isinstance(value, bool)) else value


class TierSpec(Spec):
    """A plan of a project."""

    name: Name
    title: Title | None = None
    price_minor: Money = 0
    currency: Currency = "usd"
    billing_interval: Literal["month", "year"] = "month"
    requests_per_minute: PerMinute | None = None
    burst: PerMinute | None = None
    """So many requests more in any minute, as long as any five minutes have no more than five times the rate and this."""
    shadow: bool = False
    """Refuse nothing: report what would have been refused. For trying out limits."""
    concurrent_requests: AtOnce | None = None
    """Requests of one customer under way at once, over all gateways."""
    quotas: dict[MeterName, Annotated[QuotaSpec, BeforeValidator(_bare_quota)]] = Field(default_factory=dict)
    spend_cap_minor: Money | None = None
    trial_days: int = Field(default=0, ge=0, le=730)
    features: dict[Title, bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | Text] = Field(default_factory=dict)
    default: bool = False
    """New customers of the project get this tier; at most one a mode."""
    popular: bool = False
    upgrade_url: PageUrl | None = None
    """Where its customers get more: refusals for a used-up quota or spend cap tell it."""
    modes: Modes = (Mode.TEST, Mode.LIVE)

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_minute is None:
            raise ValueError("burst needs requests_per_minute")
        return self
