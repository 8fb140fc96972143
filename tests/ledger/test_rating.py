"""Rating: every shape of price by example, and what holds for all: splits add up, rounding happens once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.rating import (
    InvalidPrice,
    Line,
    Plan,
    Price,
    PriceTier,
    Shape,
    amount_of,
    bill,
    marginal,
    price_of,
    rounded,
    total,
)
from tests.ledger.facts import examples

D = Decimal
STEPS = (PriceTier(100, D("1")), PriceTier(1000, D("0.5"), D(20)), PriceTier(None, D("0.1")))


@pytest.mark.parametrize(
    ("price", "amounts"),
    [
        (Price(unit=D("0.001")), {0: "0", 1: "0.001", 1_234_567: "1234.567"}),
        (Price(unit=D("2"), free=10), {10: "0", 11: "2"}),
        (Price(unit=D("2"), minimum=D(50)), {0: "50", 25: "50", 26: "52"}),
        (Price(Shape.GRADUATED, tiers=STEPS), {0: "0", 100: "100", 101: "120.5", 1000: "570", 1001: "570.1"}),
        (Price(Shape.VOLUME, tiers=STEPS), {0: "0", 100: "100", 101: "70.5", 1000: "520", 1001: "100.1"}),
        (Price(Shape.PACKAGE, unit=D(7), package_size=100), {0: "0", 1: "7", 100: "7", 101: "14"}),
        (Price(Shape.PACKAGE, unit=D(7), package_size=100, free=50), {50: "0", 51: "7", 151: "14"}),
    ],
)
def test_prices_by_example(price: Price, amounts: dict[int, str]) -> None:
    assert {quantity: amount_of(price, quantity) for quantity in amounts} == {q: D(a) for q, a in amounts.items()}


money = st.decimals(0, 1000, places=6)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    shape = draw(st.sampled_from(Shape))
    tiers: tuple[PriceTier, ...] = ()
    if shape in (Shape.GRADUATED, Shape.VOLUME):
        bounds = sorted(draw(st.sets(st.integers(1, 5000), max_size=4)))
        tiers = tuple(PriceTier(end, draw(money), draw(money)) for end in [*bounds, None])
    return Price(
        shape, draw(money), tiers, draw(st.integers(1, 500)), draw(st.integers(0, 500)), draw(st.just(D(0)) | money)
    )


@examples
@given(price=prices(), parts=st.lists(st.integers(0, 4000), max_size=12))
def test_any_split_of_the_usage_adds_up_to_the_whole(price: Price, parts: list[int]) -> None:
    before, added = 0, amount_of(price, 0)
    for part in parts:
        added += marginal(price, before, part)
        before += part
    assert added == amount_of(price, sum(parts))


@examples
@given(price=prices(), quantity=st.integers(0, 20_000))
def test_amounts_are_never_negative_nor_below_the_minimum_and_free_units_are_free(price: Price, quantity: int) -> None:
    assert amount_of(price, quantity) >= price.minimum >= 0
    assert amount_of(price, min(quantity, price.free)) == amount_of(price, 0)


@examples
@given(price=prices(), quantity=st.integers(0, 20_000))
def test_graduated_per_unit_and_package_never_get_cheaper(price: Price, quantity: int) -> None:
    if price.shape is not Shape.VOLUME:
        assert marginal(price, quantity, 1) >= 0


@examples
@given(
    price=prices(),
    usage=st.dictionaries(st.sampled_from("abc"), st.integers(0, 2**53), max_size=3),
    base=st.integers(0, 9),
)
def test_a_bill_rounds_each_line_once(price: Price, usage: dict[str, int], base: int) -> None:
    lines = bill(Plan("p", "usd", base, dict.fromkeys("abc", price), {}), usage)
    exact = base + sum(amount_of(price, usage.get(meter, 0)) for meter in "abc")
    assert abs(total(lines) - exact) <= D("1.5")
    assert all(line.amount_minor == rounded(amount_of(price, line.quantity)) for line in lines if line.meter)


def test_halves_are_rounded_up() -> None:
    assert [rounded(D(text)) for text in ("0.4", "0.5", "1.5", "2.5", "2.4999999999")] == [0, 1, 2, 3, 2]


def test_what_is_beyond_a_hard_quota_is_told_and_not_charged() -> None:
    plan = Plan("p", "usd", 900, {"requests": Price(unit=D(1))}, {"requests": 10})
    assert bill(plan, {"requests": 25, "bytes": 7}) == [
        Line(None, 1, 900),
        Line("bytes", 7, 0),
        Line("requests", 10, 10, 15),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": "free"},
        {"unit": -1},
        {"unit": "NaN"},
        {"unit": "Infinity"},
        {"unit": True},
        {"unit": "a lot"},
        {"price": 1},
        {"free": -1},
        {"free": 1.5},
        {"packageSize": 0},
        {"minimum": "-0.01"},
        {"shape": "graduated"},
        {"tiers": [{"unit": 1}]},
        {"shape": "volume", "tiers": [{"upTo": 10, "unit": 1}]},
        {"shape": "volume", "tiers": [{"unit": 1}, {"unit": 1}]},
        {"shape": "volume", "tiers": [{"upTo": 10}, {"upTo": 10}, {}]},
        {"shape": "volume", "tiers": [{"upTo": 0}, {}]},
        {"shape": "volume", "tiers": "x"},
        {"shape": "volume", "tiers": [1]},
    ],
)
def test_prices_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidPrice):
        price_of(wrong)


def test_a_price_from_json() -> None:
    given = {"shape": "graduated", "tiers": [{"upTo": 100, "unit": "1"}, {"unit": 0.5, "flat": 20}], "free": 5}
    assert price_of(given) == Price(
        Shape.GRADUATED, tiers=(PriceTier(100, D(1)), PriceTier(None, D("0.5"), D(20))), free=5
    )
    with pytest.raises(ValueError, match="zero or more"):
        amount_of(Price(), -1)
