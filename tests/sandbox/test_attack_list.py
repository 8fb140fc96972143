"""The table in docs/sandbox-security.md: what it says is tried is a test, on as many ways to run code as it says."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "sandbox-security.md"
ROWS = [
    (match[2], match[3])
    for match in re.finditer(r"^\| ([^|]+) \| (`[^|]+::[^|]+) \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
]
BATTERIES = ("test_attacks", "test_exhaustion", "test_intrusion")


def named(tests: str) -> list[tuple[str, str]]:
    return [(module, test) for module, test in re.findall(r"`([\w.]+)::(\w+)`", tests)]


@pytest.mark.parametrize(("tests", "where"), ROWS)
def test_each_row_is_a_test(tests: str, where: str) -> None:
    for module, test in named(tests):
        found = getattr(importlib.import_module(f"tests.sandbox.{module}"), test)
        if where == "all":
            assert "backend" in inspect.signature(found).parameters, test
        if where == "jails, containers" and "path" not in inspect.signature(found).parameters:
            assert "asker" in inspect.signature(found).parameters, test


def test_each_test_of_the_batteries_is_in_the_table() -> None:
    assert len(ROWS) > 25
    listed = {test for tests, _ in ROWS for _, test in named(tests)}
    for name in BATTERIES:
        module = importlib.import_module(f"tests.sandbox.{name}")
        tests = {test for test, what in vars(module).items() if test.startswith("test_") and inspect.isfunction(what)}
        missing = tests - listed
        assert missing == set(), name
