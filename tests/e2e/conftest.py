"""What end-to-end tests share: the origins behind the gateway and the stacks in front, started once a session.

All tests of this folder run in one xdist worker and share the stacks; a test finds its own usage by a customer that
nobody else uses. `Door` is how the same client is sent once straight to an origin and once through the gateway: what
it sees must be the same.
"""

from __future__ import annotations

import secrets
import socket
import string
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import raw
from tests.e2e.books import Books, open_books
from tests.e2e.stack import Stack, StackError
from tests.support.upstreams import child

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.xdist_group("e2e"))
            item.add_marker(pytest.mark.timeout(90))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with the end of the log of every stack that ran."""
    report = yield
    if report.failed and item.path.is_relative_to(_HERE):
        report.sections += [(f"log of {stack.folder}", stack.log()) for stack in Stack.running]
    return report


@dataclass(frozen=True, slots=True)
class Counter:
    """The counting upstream and what it has seen."""

    url: str

    def seen(self, request_id: str) -> int:
        """How often a request with `?id=request_id` arrived."""
        return int(self._state()["ids"].get(request_id, 0))

    def sent(self, request_id: str) -> int:
        """How many body bytes it handed to its sockets for that id."""
        return int(self._state()["sent"].get(request_id, 0))

    def total(self) -> int:
        """All requests so far, and whatever was not a request."""
        state = self._state()
        return int(state["total"]) + int(state["malformed"])

    def open_gate(self, gate: str, n: int = 1) -> None:
        """Let `n` waiting handlers through."""
        assert raw.get(f"{self.url}/-/open?gate={gate}&n={n}").status == 200

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = raw.get(f"{self.url}/-/seen").json()
        return state


@dataclass(frozen=True, slots=True)
class Origins:
    """Everything that stands behind the gateway."""

    counting: Counter
    strict: Counter
    httpbin: str
    git: str
    git_root: Path
    refused: str

    def declaration(self) -> str:
        """declaration.yaml with these addresses filled in."""
        template = string.Template((_HERE / "declaration.yaml").read_text(encoding="utf-8"))
        return template.substitute(
            counting=self.counting.url,
            strict=self.strict.url,
            httpbin=self.httpbin,
            git=self.git,
            refused=self.refused,
        )


@dataclass(frozen=True, slots=True)
class Door:
    """A base URL and the header fields that a client needs there. `name` is `direct` or `gateway`."""

    name: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="session")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origins]:
    """The upstreams, and a port at which nobody listens."""
    git_root = tmp_path_factory.mktemp("git")
    started: list[child.Upstream] = []

    def start(module: str, *arguments: str) -> str:
        started.append(child.start(module, *arguments))
        return started[-1].url

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, never listening: connections to it are refused
        try:
            yield Origins(
                counting=Counter(start("counting")),
                strict=Counter(start("counting")),
                httpbin=start("wsgi_httpbin"),
                git=start("smart_git", str(git_root)),
                git_root=git_root,
                refused=f"http://127.0.0.1:{nobody.getsockname()[1]}",
            )
        finally:
            for upstream in started:
                upstream.stop()


@pytest.fixture(scope="session")
def stack_of(origins: Origins) -> Iterator[Callable[[int], Stack]]:
    """`stack_of(n)` is the shared stack with n gateway workers, started when first asked for."""
    stacks: dict[int, Stack] = {}
    failures: list[StackError] = []

    def get(workers: int) -> Stack:
        if failures:  # the first time took long enough
            raise StackError("a stack did not start, see the first failure")
        if workers not in stacks:
            try:
                stacks[workers] = Stack.start(origins.declaration(), workers=workers)
            except StackError as error:
                failures.append(error)
                raise
        return stacks[workers]

    yield get
    for stack in stacks.values():
        stack.stop()


@pytest.fixture
def stack(stack_of: Callable[[int], Stack]) -> Stack:
    """The shared stack with one gateway worker."""
    return stack_of(1)


@pytest.fixture
async def books(stack: Stack) -> AsyncIterator[Books]:
    """The records of `stack`."""
    async with open_books(stack) as opened:
        yield opened


@pytest.fixture
def customer() -> str:
    """A customer nobody has seen before."""
    return f"customer-{secrets.token_hex(6)}"


@pytest.fixture
def request_id() -> str:
    """An id for the counting upstream to count by, or the name of a gate."""
    return secrets.token_hex(6)


@pytest.fixture
def through(stack: Stack, customer: str) -> Callable[[str], Door]:
    """`through("/c")` is the gateway's door to the route at /c, used on behalf of `customer`."""

    def door(prefix: str) -> Door:
        headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer}
        return Door("gateway", stack.gateway + prefix, headers)

    return door


@pytest.fixture
def doors(origins: Origins, through: Callable[[str], Door]) -> tuple[Door, Door]:
    """The counting upstream, directly and through the gateway."""
    return Door("direct", origins.counting.url), through("/c")
