"""The limit scripts on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.limits.scripts import ClockedScripts, Scripts


@pytest.fixture
def scripts(redis_url: str) -> Iterator[Scripts]:
    found = Scripts(redis_url)
    yield found
    found.close()


@pytest.fixture
def clocked(redis_url: str) -> Iterator[ClockedScripts]:
    """The scripts with a clock of the test's own."""
    found = ClockedScripts(redis_url)
    yield found
    found.close()
