"""The meters of a route that are known only once a request is over: compiled from its declaration, and worked out. Pure.

A `Metering` is made when a plan is made, and is None for routes whose meters are all fixed: they pay nothing for this.
Admission reserves each meter's estimate; `measured` gives the actual quantities, and names those for which the answer
did not say (missing, not a whole number from 0 to MAX_QUANTITY, or unreadable), where the estimate counts instead. An
answer that is an error (400 and above) or has no body owes no such information: without it, it counts nothing.

Of an answer that was cut off (the client left, the upstream broke) counts what it had said by then, or the estimate; of
an event stream never less than one for each event that passed, as each brings at least a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.metering.count import Flow
from gateway.metering.findings import Wanted, usage_part
from ledger.events import MAX_QUANTITY
from ledger.meters import IN_EVERY_EVENT, MEASURES, MeterSpec, Origin, Source, UpstreamFailure, parse_source

if TYPE_CHECKING:
    from gateway.metering.reader import AnswerReader
    from ledger.specs import RouteSpec

_LEASE: Final = 100
"""How many messages are reserved at a time where a tier limits them and the route says nothing."""
_OF_WEBSOCKETS: Final = frozenset(("messages_in", "messages_out", "messages"))
_STREAMED: Final = frozenset(("output", "total"))


class Measured(NamedTuple):
    """One meter: its name, where it comes from, what is reserved for it, and whether events carry it anyway."""

    name: str
    source: Source
    estimate: int
    is_in_every_event: bool


@dataclass(frozen=True, slots=True)
class Metering:
    """What a route measures. `wanted` is None if no meter looks into the body.

    `settle_every_messages` is None for what is no WebSocket, and where nothing counts or limits messages.
    """

    measured: tuple[Measured, ...]
    wanted: Wanted | None
    is_failure_free: bool
    asks_for_usage: bool = False
    settle_every_s: int | None = None
    settle_every_messages: int | None = None

    @property
    def estimates(self) -> dict[str, int]:
        """What is reserved, by meter."""
        return {meter.name: meter.estimate for meter in self.measured}


class Actual(NamedTuple):
    """What one request really cost. `quantities` are in the order of the meters."""

    quantities: list[int]
    estimated: list[str]


def fixed_meters(spec: RouteSpec) -> dict[str, int]:
    """The meters of a route that are known beforehand."""
    return {name: meter for name, meter in spec.meters.items() if isinstance(meter, int)}


def metering_of(spec: RouteSpec, quotas: Mapping[str, int | None], *, is_websocket: bool = False) -> Metering | None:
    """The metering of a route for customers whose tier has these quotas; None if there is nothing to measure.

    A WebSocket has one in any case: its tier may change while it is under way.

    What every event carries anyway is counted against a quota where the tier names it, on every route alike, so that the
    counter is the sum of the events; the route's own entry then only says the estimate.
    """
    declared = {name: meter for name, meter in spec.meters.items() if isinstance(meter, MeterSpec)}
    for name in MEASURES:
        if name in quotas:
            declared.setdefault(name, MeterSpec(source=name))
    measured = tuple(
        Measured(name, parse_source(meter.source), meter.estimate, name in IN_EVERY_EVENT)
        for name, meter in declared.items()
        if (name not in IN_EVERY_EVENT or name in quotas) and (is_websocket or meter.source not in _OF_WEBSOCKETS)
    )
    is_failure_free = spec.on_upstream_failure is UpstreamFailure.FREE
    lease = spec.settle_every_messages if is_websocket else None
    if lease is None and any(m.source.name in _OF_WEBSOCKETS and quotas.get(m.name) is not None for m in measured):
        lease = _LEASE
    has_settings = is_failure_free or spec.include_usage or spec.settle_every_s or lease
    if not measured and not has_settings and not is_websocket:
        return None
    pointers = tuple(dict.fromkeys(m.source.pointer for m in measured if m.source.origin is Origin.BODY))
    looks_for_usage = any(m.source.origin is Origin.USAGE for m in measured)
    wanted = Wanted(pointers, usage=looks_for_usage) if pointers or looks_for_usage else None
    return Metering(measured, wanted, is_failure_free, spec.include_usage, spec.settle_every_s, lease)


def measured(metering: Metering, flow: Flow, reader: AnswerReader | None, *, is_whole: bool) -> Actual:
    """What a request cost, or the last part of it. `reader` None: there was no answer; `is_whole`: it came to its end."""
    if reader is not None:
        reader.finish()
    quantities, estimated = [], []
    for meter in metering.measured:
        source = meter.source
        if source.origin is Origin.MEASURE:
            quantities.append(getattr(flow, source.name))
            continue
        said: Any = None if reader is None else _said(source, reader)
        is_quantity = type(said) is int and 0 <= said <= MAX_QUANTITY
        quantity = int(said) if is_quantity else meter.estimate
        if said is None and is_whole and reader is not None and (reader.status >= 400 or not reader.has_body):
            quantity = 0
        elif not is_quantity or not is_whole:
            estimated.append(meter.name)
        if not is_whole and reader is not None and source.name in _STREAMED:
            quantity = max(quantity, reader.events)
        quantities.append(quantity)
    return Actual(quantities, estimated)


def _said(source: Source, reader: AnswerReader) -> Any:
    """What the answer says, whatever it is; None if it says nothing."""
    if source.origin is Origin.HEADER:
        name = source.name.encode()
        text = reader.fields.index.get(name)
        if text is None:
            return None
        is_number = name not in reader.fields.repeated and len(text) <= 19 and text.isdigit()
        return int(text) if is_number else text
    findings = reader.findings
    if findings is None:
        return None
    if source.origin is Origin.BODY:
        return findings.values.get(source.pointer)
    return None if findings.usage is None else usage_part(findings.usage, source.name)


def so_far(metering: Metering, flow: Flow) -> list[int]:
    """What a part of a request cost that is not the last: what only the end of an answer tells counts there."""
    return [getattr(flow, m.source.name) if m.source.origin is Origin.MEASURE else 0 for m in metering.measured]


def as_json(metering: Metering, quantities: Sequence[int]) -> bytes:
    """The inside of a JSON object of the quantities that events would not carry anyway."""
    pairs = zip(metering.measured, quantities, strict=True)
    return b",".join([b'"%b":%d' % (m.name.encode(), n) for m, n in pairs if not m.is_in_every_event])
