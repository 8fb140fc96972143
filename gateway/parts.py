"""A long request in parts, each settled as an event of its own; stopped where a quota or the spend cap is used up.

`Parts` cuts: one script settles the part that ends and reserves for the next (gateway.limits.renewal). What passes
until its reply is there belongs to the next part, which is settled in any case; only counted messages wait. Ids of parts
follow from the request's id and the part's number. What only the end of an answer tells (tokens) counts in the last part,
fixed quantities in the first. A part belongs to the quota period it began in.

The next part is under what holds then for its caller, who is looked at again when something has changed
(gateway.standing).

Failure: while Redis is away, or its counters are lost, nothing is cut and the part goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from gateway.exchange import LimitReached
from gateway.gate import POLICY_VIOLATION, WebSocketGate
from gateway.limits.decide import UNKNOWN
from gateway.limits.renewal import Part, Share
from gateway.metering.count import NO_FLOW, Flow, flow_as_json, flow_of
from gateway.metering.event import part_event_of
from gateway.metering.metering import as_json, measured, so_far
from gateway.plans import plan_at
from ledger.events import Outcome
from ledger.ids import part_id

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.exchange import Exchange
    from gateway.limits.plan import Plan, Quota
    from gateway.memory import Caller
    from gateway.metering.reader import AnswerReader

_AGAIN_S: Final = 0.25
_MESSAGES: Final = frozenset(("messages_in", "messages_out", "messages"))


class _State(NamedTuple):
    """A part: what it is called and holds, and what had been measured when it began. `held` is in the meters' order."""

    part: Part
    number: int
    began: Flow
    held: Sequence[int]


class Parts:
    """The parts of one exchange, from its answer's head on."""

    __slots__ = (
        "_before",
        "_ex",
        "_final",
        "_gw",
        "_is_spooled",
        "_now",
        "_shares",
        "_timer",
        "caller",
        "gate",
    )

    def __init__(self, gw: Gateway, ex: Exchange, caller: Caller) -> None:
        self._gw = gw
        self._ex = ex
        self.caller = caller
        """Who makes the request, as of now."""
        plan = caller.plan
        self._now = _State(
            Part(plan, ex.id, ex.at_ms, plan.place_keys), 0, NO_FLOW, [quota.quantity for quota in _quotas(plan)]
        )
        self._before: _State | None = None
        """The part that is being settled, while it is; what the one that follows holds is not known so long."""
        self._is_spooled = ex.is_local
        self._shares: list[Share] = []
        self._final: tuple[Outcome, Flow] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.gate: WebSocketGate | None = None
        if ex.tunnel is not None and ex.status == 101 and plan.metering.settle_every_messages is not None:
            self.gate = WebSocketGate(ex, self, plan.metering)
            self.gate.granted(self._now.held, plan.metering)
        self._wind_up(plan.metering.settle_every_s)

    @property
    def is_divided(self) -> bool:
        """True once there is more than one part, or may be."""
        return self._now.number > 0

    def ends_later(self) -> bool:
        """The upstream has ended. True if something is still to go to the client: the exchange is resumed after that."""
        return self.gate is not None and self.gate.ends_later()

    def cut(self, wanted: frozenset[str] = frozenset()) -> bool:
        """End this part and begin the next. False if that cannot be done now.

        `wanted` are the measures of messages without which there is no point in going on.
        """
        if self._before is not None:
            return True
        limiter = self._gw.limiter
        if self._ex.is_over or not limiter.is_current:
            return False
        ending, number = self._now, self._now.number + 1
        flow = flow_of(self._ex, time.monotonic_ns())
        quantities = so_far(ending.part.plan.metering, flow.since(ending.began))
        event = self._event(ending, flow, quantities, Outcome.INTERIM, {})
        now_ns = time.time_ns()
        plan, at_ms = plan_at(self._gw, self.caller, now_ns / 1e9), now_ns // 1_000_000
        following = Part(plan, part_id(self._ex.id, number, at_ms), at_ms, ending.part.places, self._ex.id, number)
        self._before, self._now = ending, _State(following, number, flow, ())
        self._shares = [_share(plan, at, wanted) for at in range(len(plan.metering.measured))]
        self._stop_timer()
        if self.gate is not None:
            self.gate.suspend()  # what passed now would be neither in the old part nor in what the new one holds
        limiter.renew(ending.part, event, _differences(ending, quantities), following, self._shares, self._renewed)
        return True

    def hold_again(self) -> bool:
        """Tell a Redis that has lost it what this part holds. False if that is not known, or cannot be written down."""
        if self._before is not None:
            return False
        part = self._now.part
        if not self._gw.limiter.hold_part(part, _quotas(part.plan), self._now.held):
            return False
        self._is_spooled = True
        return True

    def finish(self, outcome: Outcome, now_ns: int) -> bool:
        """Settle the last part, now or as soon as it is known what it holds. False if there was only one part."""
        self._stop_timer()
        if not self.is_divided:
            return False
        self._final = outcome, flow_of(self._ex, now_ns)
        if self._before is None:
            self._settle()
        return True

    def _settle(self) -> None:
        assert self._final is not None
        outcome, flow = self._final
        state, reader = self._now, cast("AnswerReader | None", self._ex.reader)
        plan = state.part.plan
        is_whole = outcome is Outcome.COMPLETED
        actual, estimated = measured(plan.metering, flow.since(state.began), reader, is_whole=is_whole)
        if estimated:
            self._gw.metrics.of_route(plan.route).estimated(estimated)
        event = self._event(state, flow, actual, outcome, {"estimated": estimated} if estimated else {})
        self._gw.limiter.settle_part(state.part, event, _differences(state, actual), is_spooled=self._is_spooled)

    def _renewed(self, reply: list[int]) -> None:
        verdict, held = reply[0], reply[1:]
        before, self._before = self._before, None
        assert before is not None
        is_known = verdict != UNKNOWN
        if is_known:
            self._now = self._now._replace(held=held)
            self._is_spooled = False
        else:
            self._now = before  # nothing has happened: the part goes on
        if self._final is not None:
            self._settle()
        elif verdict > 0:
            self._gw.metrics.counts["cut_off_total"] += 1
            is_spent = verdict > len(self._shares)
            self.break_off(
                "spend cap reached" if is_spent else f"quota used up: {self._shares[verdict - 1].quota.meter}"
            )
        else:
            self._wind_up(self._now.part.plan.metering.settle_every_s if is_known else _AGAIN_S)
            if self.gate is not None:
                if is_known:
                    self.gate.granted(held, self._now.part.plan.metering)
                else:
                    self.gate.go_on()
                self.gate.release()

    def _event(
        self, state: _State, flow: Flow, quantities: Sequence[int], outcome: Outcome, notes: dict[str, Any]
    ) -> bytes:
        ex, part, passed = self._ex, state.part, flow.since(state.began)
        fixed = b"" if state.number else part.plan.meters_json
        fixed = b",".join(filter(None, (fixed, as_json(part.plan.metering, quantities))))
        meters = flow_as_json(fixed, passed, is_tunnel=ex.tunnel is not None and ex.status == 101)
        notes = {"part_of": ex.id.decode(), "part": state.number} | notes
        return part_event_of(ex, part.plan.identity, meters, outcome, (part.id, part.at_ms, passed.duration_ms), notes)

    def break_off(self, reason: str, code: int = POLICY_VIOLATION) -> None:
        """End the request, whatever is still to come of it; a WebSocket with a close code (RFC 6455 §7.4)."""
        if self.gate is not None:
            self.gate.close(reason, code)
        else:
            self._ex.throw(LimitReached())

    # -- time

    def _wind_up(self, in_s: float | None) -> None:
        if in_s is not None and self._timer is None and self.caller.plan.metering.settle_every_s is not None:
            self._timer = asyncio.get_running_loop().call_later(in_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self.cut():
            self._wind_up(_AGAIN_S)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _quotas(plan: Plan) -> tuple[Quota, ...]:
    """The quotas of a plan's meters, in their order."""
    count = len(plan.metering.measured)
    return plan.quotas[-count:] if count else ()


def _share(plan: Plan, at: int, wanted: frozenset[str]) -> Share:
    """What the next part is to hold of a meter's quota: messages as many as there are, all else by estimate."""
    meter, quota = plan.metering.measured[at], _quotas(plan)[at]
    if meter.source.name in _MESSAGES:
        return Share(quota, 1 if meter.source.name in wanted else 0, plan.metering.settle_every_messages or 1)
    return Share(quota, meter.estimate, meter.estimate)


def _differences(state: _State, quantities: Sequence[int]) -> list[tuple[str, int]]:
    """Counters, and what they are to be corrected by."""
    held = zip(_quotas(state.part.plan), quantities, state.held, strict=True)
    return [(quota.key, quantity - was_held) for quota, quantity, was_held in held if quantity != was_held]
