"""Failed upstreams in the log: a few lines a second, the rest as a number."""

from __future__ import annotations

import pytest

from gateway.incidents import PER_SECOND, Incidents


def test_a_few_lines_a_second_and_the_rest_as_a_number(caplog: pytest.LogCaptureFixture) -> None:
    incidents = Incidents()
    for n in range(PER_SECOND + 3):
        incidents.note("upstream_failed", f"reason {n}", "api", b"0" * 32)
    assert [record.getMessage() for record in caplog.records] == [
        f"upstream_failed: reason {n}" for n in range(PER_SECOND)
    ]
    caplog.clear()
    incidents.tick()
    assert [record.getMessage() for record in caplog.records] == ["3 more requests failed in the last second"]
    caplog.clear()
    incidents.tick()
    assert caplog.records == []
    incidents.note("upstream_timeout", "no answer in time", "api", b"0" * 32)
    assert [record.getMessage() for record in caplog.records] == ["upstream_timeout: no answer in time"]
