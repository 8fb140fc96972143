"""Usage events for tests: well-formed ones around a fixed NOW, with whatever a test wants different."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from hypothesis import HealthCheck, settings

from ledger import ids
from ledger.names import STREAM_FIELD
from ledger.stream import Entry

NOW: Final = datetime(2026, 3, 15, 12, 30, tzinfo=UTC)
NOW_MS: Final = int(NOW.timestamp() * 1000)
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
PROJECT: Final = "prj_acme"
STREAM: Final = "tg:{00}:usage"

# The same examples in every run, and nothing kept on disk: a failure is found by the commit that brings it.
examples = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

_sequence = itertools.count(1)


def ms(moment: datetime) -> int:
    """Unix milliseconds."""
    return round(moment.timestamp() * 1000)


def fact(at: int = NOW_MS, **different: Any) -> dict[str, Any]:
    """A usage event as a gateway would send it."""
    return {
        "id": ids.uuid7_hex(at),
        "at": at,
        "project": PROJECT,
        "mode": "live",
        "customer": "cus_ada",
        "external": None,
        "key": "key_1",
        "route": "rte_1",
        "method": "GET",
        "status": 200,
        "outcome": "completed",
        "meters": {"requests": 1, "bytes_out": 1024},
        "duration_us": 1830,
        "upstream_us": 1200,
    } | different


def without(name: str) -> dict[str, Any]:
    """A usage event that lacks one field."""
    return {field: value for field, value in fact().items() if field != name}


def entry(event: dict[str, Any] | bytes) -> Entry:
    """The event as the stream delivers it; every delivery of this function has an id of its own."""
    raw = event if isinstance(event, bytes) else orjson.dumps(event)
    return Entry(STREAM, f"{NOW_MS}-{next(_sequence)}".encode(), {STREAM_FIELD: raw})
