"""Rating: a period's usage comes in pieces, is corrected, and is cut up anew; what it costs does not depend on how."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.rating import Plan, Price, amount_of, bill, marginal, rounded, total
from tests.ledger.test_rating import prices
from tests.machines.play import play

pieces = st.integers(0, 3_000)


def model_amount(price: Price, quantity: int) -> Decimal:
    """What a quantity costs, unit by unit as a person would add it up."""
    billable = max(0, quantity - price.free)
    match price.shape.value:
        case "per_unit":
            amount = price.unit * billable
        case "package":
            amount = price.unit * ((billable + price.package_size - 1) // price.package_size)
        case shape:
            amount, below = Decimal(0), 0
            for tier in price.tiers:
                top = billable if tier.up_to is None else tier.up_to
                if (
                    shape == "volume"
                    and billable
                    and below < billable <= max(top, billable if tier.up_to is None else top)
                ):
                    amount = tier.unit * billable + tier.flat
                if shape == "graduated" and billable > below:
                    amount += tier.unit * (min(top, billable) - below) + tier.flat
                below = top
    return max(price.minimum, amount)


class Rating(RuleBasedStateMachine):
    """One line of a bill. The model: the pieces, and what each of them was said to add."""

    def __init__(self) -> None:
        super().__init__()
        self.price = Price()
        self.limit: int | None = None
        self.used: list[int] = []
        self.amount = Decimal(0)

    @initialize(price=prices(), limit=st.none() | st.integers(0, 5_000))
    def begin(self, price: Price, limit: int | None) -> None:
        self.price, self.limit = price, limit
        self.amount = amount_of(price, 0)

    @rule(quantity=pieces)
    def use(self, quantity: int) -> None:
        self.amount += marginal(self.price, sum(self.used), quantity)
        self.used.append(quantity)

    @precondition(lambda self: self.used)
    @rule(which=st.integers(0, 99), share=st.integers(0, 100))
    def correct(self, which: int, share: int) -> None:
        """A piece becomes less, or nothing."""
        at = which % len(self.used)
        taken = self.used[at] * share // 100
        self.amount += marginal(self.price, sum(self.used), -taken)
        self.used[at] -= taken

    @precondition(lambda self: self.used)
    @rule(which=st.integers(0, 99), at=st.integers(0, 3_000))
    def split(self, which: int, at: int) -> None:
        """A piece comes in two parts after all."""
        whole = self.used.pop(which % len(self.used))
        self.used += [min(at, whole), whole - min(at, whole)]

    @precondition(lambda self: len(self.used) > 1)
    @rule(data=st.data())
    def shuffle(self, data: st.DataObject) -> None:
        self.used = data.draw(st.permutations(self.used))

    @invariant()
    def the_parts_add_up_to_the_whole(self) -> None:
        again, before = amount_of(self.price, 0), 0
        for piece in self.used:
            again += marginal(self.price, before, piece)
            before += piece
        assert self.amount == again == amount_of(self.price, before) == model_amount(self.price, before)

    @invariant()
    def a_bill_is_rounded_once(self) -> None:
        limits = {} if self.limit is None else {"tokens": self.limit}
        used = sum(self.used)
        lines = bill(Plan("plan", "usd", 0, {"tokens": self.price}, limits), {"tokens": used})
        served = used if self.limit is None else min(used, self.limit)
        assert total(lines) == rounded(model_amount(self.price, served))
        assert sum(line.quantity + line.refused for line in lines) == used or not lines


def test_rating() -> None:
    play(Rating, games=60, steps=20)
