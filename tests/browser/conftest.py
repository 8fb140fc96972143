"""One whole Tollgate for all tests of this folder, and Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import house
from tests.browser.house import House
from tests.e2e.stack import Stack

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.xdist_group("browser"))
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    if house.chromium() is None:
        pytest.skip("Chromium is not here (Debian: apt install chromium)")
    started = house.start()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def home(stack: Stack) -> House:
    found = house.house(stack)
    asyncio.run(found.furnish())
    found.all_paths = asyncio.run(found.paths())
    return found


@pytest.fixture
def browser(home: House) -> Iterator[Browser]:
    """One for each test: while Playwright runs, no other event loop can in this thread."""
    with house.browser() as opened:
        yield opened


@pytest.fixture
def page(home: House, browser: Browser) -> Iterator[Page]:
    """A page of a fresh browser; at the end its console must be clean."""
    home.errors.clear()
    context = home.context(browser)
    yield context.new_page()
    context.close()
    assert home.errors == []


@pytest.fixture
def plain_page(home: House, browser: Browser) -> Iterator[Page]:
    """The same without JavaScript."""
    context = home.context(browser, java_script_enabled=False)
    yield context.new_page()
    context.close()
