"""What usage costs: prices of every common shape, and bills by line. Pure, in Decimal; rounded once, at the line.

A price turns a quantity into an exact amount in minor units of a currency (cents), unrounded. Rating is over a whole
period's quantity: the amount of a part is the difference it makes (`marginal`), so that the amounts of any split of the
usage add up to the amount of the whole.

    per unit     quantity × unit price
    graduated    each tier's units at that tier's price, plus its flat amount once it is entered
    volume       all units at the price of the tier that the quantity falls in, plus its flat amount
    package      a price for every package begun

Before any of them `free` units are taken off, and afterwards the line is at least `minimum`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any, Final

ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)


class InvalidPrice(ValueError):
    """The price makes no sense. The message is public."""


class Shape(StrEnum):
    """How a price grows."""

    PER_UNIT = "per_unit"
    GRADUATED = "graduated"
    VOLUME = "volume"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Units up to and including `up_to` (None: without end), at `unit` each and `flat` once."""

    up_to: int | None
    unit: Decimal = ZERO
    flat: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Price:
    """See the module. Amounts in minor units. `tiers` for graduated and volume, `package_size` for package."""

    shape: Shape = Shape.PER_UNIT
    unit: Decimal = ZERO
    tiers: tuple[PriceTier, ...] = ()
    package_size: int = 1
    free: int = 0
    minimum: Decimal = ZERO

    def __post_init__(self) -> None:
        amounts = [self.unit, self.minimum, *(t.unit for t in self.tiers), *(t.flat for t in self.tiers)]
        if any(not amount.is_finite() or amount < 0 for amount in amounts):
            raise InvalidPrice("amounts are numbers of zero or more")
        if self.free < 0 or self.package_size < 1:
            raise InvalidPrice("free is zero or more, a package holds one unit or more")
        if (self.shape in (Shape.GRADUATED, Shape.VOLUME)) != bool(self.tiers):
            raise InvalidPrice("graduated and volume prices have tiers, others have none")
        ends = [tier.up_to for tier in self.tiers]
        if ends and (ends[-1] is not None or None in ends[:-1]):
            raise InvalidPrice("the last tier, and no other, is without end")
        bounds = [end for end in ends if end is not None]
        if any(b <= a for a, b in zip([0, *bounds], bounds, strict=False)):
            raise InvalidPrice("each tier ends above the one before")


def amount_of(price: Price, quantity: int) -> Decimal:
    """The exact amount of a period's whole quantity, in minor units. Raises ValueError for a negative quantity."""
    if quantity < 0:
        raise ValueError("a quantity is zero or more")
    billable = max(0, quantity - price.free)
    return max(price.minimum, _shaped(price, billable))


def marginal(price: Price, before: int, quantity: int) -> Decimal:
    """What `quantity` more units add to the amount of those `before`. May be negative where volume is cheaper."""
    return amount_of(price, before + quantity) - amount_of(price, before)


def _shaped(price: Price, quantity: int) -> Decimal:
    match price.shape:
        case Shape.PER_UNIT:
            return price.unit * quantity
        case Shape.PACKAGE:
            return price.unit * -(-quantity // price.package_size)
        case Shape.VOLUME:
            if not quantity:
                return ZERO
            tier = next(t for t in price.tiers if t.up_to is None or quantity <= t.up_to)
            return tier.unit * quantity + tier.flat
    total, start = ZERO, 0
    for tier in price.tiers:
        if quantity <= start:
            break
        end = quantity if tier.up_to is None else min(quantity, tier.up_to)
        total += tier.unit * (end - start) + tier.flat
        start = end if tier.up_to is None else tier.up_to
    return total


def rounded(amount: Decimal) -> int:
    """Whole minor units, halves up: done once per line, and nowhere else."""
    return int(amount.quantize(_ONE, ROUND_HALF_UP))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a customer pays a period: a base, and a price per meter. Meters without a price cost nothing.

    `limits`: hard quotas; what is beyond them would have been refused, so it is not charged but told.
    """

    name: str
    currency: str
    base_minor: int
    prices: Mapping[str, Price]
    limits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill. `meter` is None for the base. `refused` units are beyond a hard quota."""

    meter: str | None
    quantity: int
    amount_minor: int
    refused: int = 0


def bill(plan: Plan, usage: Mapping[str, int]) -> list[Line]:
    """The lines of one period: the base if it costs anything, then each meter that was used or has a minimum."""
    lines = [Line(None, 1, plan.base_minor)] if plan.base_minor else []
    for meter in sorted({*usage, *plan.prices}):
        used = max(0, usage.get(meter, 0))
        limit = plan.limits.get(meter)
        served = used if limit is None else min(used, limit)
        price = plan.prices.get(meter)
        amount = ZERO if price is None else amount_of(price, served)
        if used or amount:
            lines.append(Line(meter, served, rounded(amount), used - served))
    return lines


def total(lines: Sequence[Line]) -> int:
    """The sum of lines that are rounded already, in minor units."""
    return sum(line.amount_minor for line in lines)


def price_of(given: Mapping[str, Any]) -> Price:
    """A price from JSON, such as {"shape": "graduated", "tiers": [{"upTo": 1000, "unit": "0.5"}, {"unit": "0.2"}]}.

    Raises InvalidPrice.
    """
    known = {"shape", "unit", "tiers", "packageSize", "free", "minimum"}
    if unknown := sorted(given.keys() - known):
        raise InvalidPrice(f"{unknown[0]}: unknown (known: {', '.join(sorted(known))})")
    try:
        tiers = tuple(
            PriceTier(
                None if tier.get("upTo") is None else _integer(tier["upTo"]),
                _decimal(tier.get("unit", 0)),
                _decimal(tier.get("flat", 0)),
            )
            for tier in given.get("tiers", ())
        )
        return Price(
            Shape(given.get("shape", Shape.PER_UNIT)),
            _decimal(given.get("unit", 0)),
            tiers,
            _integer(given.get("packageSize", 1)),
            _integer(given.get("free", 0)),
            _decimal(given.get("minimum", 0)),
        )
    except InvalidPrice:
        raise
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        raise InvalidPrice(
            'not a price: amounts are numbers or text such as "0.02", quantities whole numbers'
        ) from None


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    return Decimal(str(value))
