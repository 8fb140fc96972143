"""Admission, settlement in parts and sweeping by the real scripts: limits are exact, counters are what was used."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import hiredis
import orjson
import pytest
import redis
import redis.asyncio as aioredis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.limits.calls import ADMIT, SETTLE
from gateway.limits.plan import Plan
from gateway.limits.renewal import RENEW, Part, Share, renew_command
from gateway.metering.metering import metering_of
from gateway.store.nouns import Overage, Tier
from ledger.specs import RouteSpec
from ledger.sweep import Policy, Sweeper
from tests.gateway.nouns import plan, route
from tests.machines.play import play
from tests.support.servers import trust

NOW = datetime.now(UTC)
METERS = ("requests", "messages", "tokens")
ESTIMATE = {"requests": 1, "messages": 3, "tokens": 4}
"""What the route reserves: one request, and what is measured by estimate."""
SPEC = RouteSpec(
    name="api",
    path="/*",
    upstream="up",
    meters={"messages": {"source": "messages", "estimate": 3}, "tokens": {"source": "$.n", "estimate": 4}},  # type: ignore[dict-item]
)
numbers = itertools.count(1)
limits = st.none() | st.integers(0, 30)
quantities = st.fixed_dictionaries({"messages": st.integers(0, 6), "tokens": st.integers(0, 9)})


@dataclass(frozen=True, slots=True)
class Terms:
    """A tier: hard quotas, and a cap on what tokens beyond `included` may cost."""

    limits: dict[str, int | None]
    cap: int | None
    included: int
    price: Decimal

    def plan(self) -> Plan:
        quotas = {meter: limit for meter, limit in self.limits.items() if limit is not None}
        overage = (Overage("tokens", self.included, self.price),)
        tier = Tier("tier_free", "free", None, quotas, spend_cap_minor=self.cap, overage=overage)
        metering = metering_of(SPEC, quotas, is_websocket=True)
        return plan(tier, on=route(), meters={"requests": 1}, metering=metering, now=NOW)

    def is_too_much(self, used: dict[str, int]) -> bool:
        """Exactly, where the scripts have doubles."""
        return self.cap is not None and max(0, used["tokens"] - self.included) * self.price > self.cap


terms = st.builds(
    Terms,
    st.fixed_dictionaries(dict.fromkeys(METERS, limits)),
    st.none() | st.integers(0, 5),
    st.integers(0, 10),
    st.sampled_from([Decimal("0.1"), Decimal("0.3"), Decimal("1"), Decimal("0.0000000001")]),
)


class Ground:
    """Redis with the scripts, a blocking client, and the sweeper in its loop."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        for script in (ADMIT, SETTLE, RENEW):
            self.redis.script_load(script)
        self.settle = self.redis.register_script(SETTLE)
        self.runner = asyncio.Runner()
        self.client = aioredis.Redis.from_url(url)

    def call(self, command: bytes) -> list[int]:
        """A call as the gateway writes it."""
        reader = hiredis.Reader()
        reader.feed(command)
        reply: list[int] = self.redis.execute_command(*reader.gets())
        return reply

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()
        self.redis.close()


@pytest.fixture
def ground(redis_url: str) -> Iterator[Ground]:
    ground = Ground(redis_url)
    yield ground
    ground.close()


class Reservations(RuleBasedStateMachine):
    """One customer at one gateway. The model: what each meter counts, what is held, what was told of each event."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.ground = ground
        ground.redis.flushdb()
        trust(ground.redis)
        self.used = dict.fromkeys(METERS, 0)
        self.held: dict[bytes, dict[str, int]] = {}
        self.told: dict[bytes, dict[str, int]] = {}
        self.lost: list[bytes] = []
        """Settled by the sweeper; their gateway was only frozen."""

    @initialize(terms=terms, requests=st.integers(1, 5))
    def begin(self, terms: Terms, requests: int) -> None:
        self.change_tier(terms)
        for _ in range(requests):
            self.admit()

    @rule(terms=terms)
    def change_tier(self, terms: Terms) -> None:
        """What was used stays used, and what is held stays held."""
        self.terms = terms
        self.plan = terms.plan()

    # -- a request

    @rule()
    def admit(self) -> None:
        event_id = b"%032x" % next(numbers)
        reply = self.ground.call(self.plan.admit_command(event_id, int(time.time() * 1000)))
        after = {meter: self.used[meter] + ESTIMATE[meter] for meter in METERS}
        over = [m for m in METERS if (limit := self.terms.limits[m]) is not None and after[m] > limit]
        assert (reply[0] != 0) == (bool(over) or self.terms.is_too_much(after)), reply
        if reply[0] == 0:
            self.used = after
            self.held[event_id] = dict(ESTIMATE)

    def _event(self, event_id: bytes, meters: dict[str, int]) -> bytes:
        return orjson.dumps({"id": event_id.decode(), "meters": meters})

    def _settle(self, event_id: bytes, held: dict[str, int], meters: dict[str, int]) -> None:
        keys = {quota.meter: quota.key for quota in self.plan.quotas}
        deltas = {keys[meter]: meters.get(meter, 0) - quantity for meter, quantity in held.items()}
        self.ground.settle(
            keys=[self.plan.reservations, self.plan.stream, *deltas],
            args=[event_id, self._event(event_id, meters), len(deltas), *deltas.values()],
        )

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99), actual=quantities, is_repeated=st.booleans())
    def settle(self, which: int, actual: dict[str, int], is_repeated: bool) -> None:
        event_id, held = list(self.held.items())[which % len(self.held)]
        meters = {meter: actual.get(meter, held[meter]) for meter in held}
        for _ in range(1 + is_repeated):
            self._settle(event_id, held, meters)
        del self.held[event_id]
        self._count(event_id, held, meters)

    def _count(self, event_id: bytes, held: dict[str, int], meters: dict[str, int]) -> None:
        self.told[event_id] = meters
        for meter, quantity in held.items():
            self.used[meter] += meters.get(meter, 0) - quantity

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def give_back(self, which: int) -> None:
        """It never reached an upstream."""
        event_id, held = list(self.held.items())[which % len(self.held)]
        self._settle(event_id, held, {})
        del self.held[event_id]
        self._count(event_id, held, {})

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 99),
        actual=quantities,
        least=st.integers(0, 2),
        most=st.integers(2, 8),
        again=st.booleans(),
    )
    def renew(self, which: int, actual: dict[str, int], least: int, most: int, again: bool) -> None:
        """A part ends and the next begins, under what the tier says by now."""
        event_id, held = list(self.held.items())[which % len(self.held)]
        following = b"%032x" % next(numbers)
        meters = {meter: actual.get(meter, held[meter]) for meter in held}
        quotas = {quota.meter: quota for quota in self.plan.quotas}
        corrections = [(quotas[m].key, meters[m] - held[m]) for m in held]
        shares = [Share(quotas["messages"], least, most), Share(quotas["tokens"], 4, 4)]
        ending, then = Part(self.plan, event_id, 1), Part(self.plan, following, 2, (), b"a" * 32, 1)
        command = renew_command(ending, self._event(event_id, meters), corrections, then, shares)
        reply = self.ground.call(command)
        if again:
            assert self.ground.call(command) == reply
        del self.held[event_id]
        self._count(event_id, held, meters)

        verdict, granted = self._granted(least, most)
        assert reply == [verdict, *granted]
        self.held[following] = dict(zip(("messages", "tokens"), granted, strict=True))
        for meter, quantity in self.held[following].items():
            self.used[meter] += quantity

    def _granted(self, least: int, most: int) -> tuple[int, list[int]]:
        granted = []
        for number, (meter, low, high) in enumerate((("messages", least, most), ("tokens", 4, 4)), 1):
            limit = self.terms.limits[meter]
            left = high if limit is None else limit - self.used[meter]
            if left < low:
                return number, [0, 0]
            granted.append(max(0, min(high, left)))
        if self.terms.is_too_much(self.used | {"tokens": self.used["tokens"] + granted[1]}):
            return 3, [0, 0]  # of tokens there is no less
        return 0, granted

    # -- its gateway dies, or seems to

    @precondition(lambda self: self.held)
    @rule(policy=st.sampled_from(["charge_estimate", "release"]))
    def die(self, policy: Policy) -> None:
        sweeper = Sweeper(self.ground.client, 2, policy)
        assert self.ground.runner.run(sweeper.sweep()) == 0
        assert self.ground.runner.run(sweeper.sweep()) == len(self.held)
        for event_id, held in self.held.items():
            self._count(event_id, held, held if policy == "charge_estimate" else dict.fromkeys(held, 0))
            self.lost.append(event_id)
        self.held = {}

    @precondition(lambda self: self.lost)
    @rule(actual=quantities)
    def wake_up(self, actual: dict[str, int]) -> None:
        """It was only frozen, and settles what was swept: the ledger takes the event that came first."""
        self._settle(self.lost.pop(), dict(ESTIMATE), actual)

    # -- what holds

    @invariant()
    def redis_says_what_the_model_says(self) -> None:
        server, keys = self.ground.redis, {quota.meter: quota.key for quota in self.plan.quotas}
        assert {meter: int(server.get(keys[meter]) or 0) for meter in METERS} == self.used
        assert set(server.hkeys(self.plan.reservations)) == self.held.keys()
        first: dict[bytes, dict[str, int]] = {}
        for _, fields in server.xrange(self.plan.stream):
            event = orjson.loads(fields[b"e"])
            first.setdefault(event["id"].encode(), event["meters"])
        assert first == self.told

    @invariant()
    def what_counts_is_what_was_told_and_what_is_held(self) -> None:
        for meter in METERS:
            told = sum(meters.get(meter, 0) for meters in self.told.values())
            assert self.used[meter] == told + sum(held.get(meter, 0) for held in self.held.values())


def test_reservations(ground: Ground) -> None:
    play(lambda: Reservations(ground), games=60, steps=25)
