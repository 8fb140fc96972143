"""`tollgate reconcile` on the command line."""

from __future__ import annotations

import json

import pytest

from tests.admin.commands.conftest import Tollgate
from tests.admin.declared import SHOP


@pytest.fixture
def run(tollgate: Tollgate, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Tollgate:
    """Project Shop is there."""
    monkeypatch.setenv("TOLLGATE_REDIS_URL", redis_url)
    assert tollgate("apply", "-f", "-", stdin=SHOP.encode()).status == 0
    return tollgate


def test_books_that_agree_are_status_0(run: Tollgate) -> None:
    done = run("reconcile")
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("not asked: stripe: no key is set\nAll books agree.\n")
    report = json.loads(run("reconcile", "--json", "--project", "Shop", "--period", "2026-01").out)
    assert (report["isClean"], report["period"]["start"]) == (True, "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--period", "soon"], "expected a month such as 2027-01"), (["--project", "x"], "no project is called 'x'")],
)
def test_what_cannot_be_is_one_line(run: Tollgate, arguments: list[str], message: str) -> None:
    done = run("reconcile", *arguments)
    assert done.status == 1
    assert message in done.err
    assert done.err.count("\n") == 1
