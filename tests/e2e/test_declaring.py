"""Declaring on a running product: effective in under a second, without a failed request; mistakes change nothing."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

import pytest

from tests.e2e import load, raw
from tests.e2e.books import Books
from tests.e2e.conftest import Origins
from tests.e2e.stack import Stack, StackError
from tests.support.processes import eventually

_DECLARATION = """\
version: 1
projects:
  - name: e2e
    upstreams:
      - {{name: {name}, targets: [{target}]}}
    routes:
      - {{name: {name}, path: /{name}/*, upstream: {name}}}
"""


@pytest.fixture
def name() -> str:
    """A route that nobody else declares."""
    return f"route-{secrets.token_hex(4)}"


def _apply(stack: Stack, file: Path, text: str, *options: str) -> str:
    file.write_text(text, encoding="utf-8")
    return stack.command("apply", "-f", str(file), *options)


async def test_a_route_comes_and_moves_without_a_failed_request(
    stack: Stack, origins: Origins, tmp_path: Path, name: str
) -> None:
    url, headers = f"{stack.gateway}/{name}/count?id={name}", {"X-API-Key": stack.secret_key}
    assert raw.get(url, headers).status == 404
    file = tmp_path / "routes.yaml"
    _apply(stack, file, _DECLARATION.format(name=name, target=origins.counting.url))
    applied = time.monotonic()
    eventually(lambda: raw.get(url, headers).status == 200, within_s=1.0)
    assert time.monotonic() - applied < 1.0

    under_load = asyncio.create_task(load.count(url, headers, total=8_000, clients=8), name="load")
    await asyncio.to_thread(_apply, stack, file, _DECLARATION.format(name=name, target=origins.strict.url))
    assert await under_load == {200: 8_000}
    eventually(lambda: raw.get(url, headers).status == 200 and origins.strict.seen(name) > 0, within_s=1.0)


def test_the_admin_api_answers_the_same_behind_the_gateway(stack: Stack) -> None:
    key = {"Authorization": f"Bearer {stack.secret_key}"}
    for path in ("/api/keys", "/api/v1/keys", "/api/v1/tiers", "/api/v1/routes", "/api/v1/none-such"):
        direct, gateway = (raw.get(origin + path, key) for origin in (stack.admin, stack.gateway))
        assert gateway.status == direct.status, path
        if direct.status == 200:
            assert gateway.json() == direct.json(), path
    assert raw.get(f"{stack.gateway}/api/keys").status == 401


def test_a_dry_run_tells_and_changes_nothing(stack: Stack, origins: Origins, tmp_path: Path, name: str) -> None:
    before = stack.command("export")
    told = _apply(stack, tmp_path / "r.yaml", _DECLARATION.format(name=name, target=origins.strict.url), "--dry-run")
    assert name in told
    assert stack.command("export") == before


def test_what_is_exported_can_be_applied_and_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    exported = stack.command("export")
    assert "name: e2e" in exported
    _apply(stack, tmp_path / "exported.yaml", exported)
    assert stack.command("export") == exported


_GOOD = _DECLARATION.format(name="ok", target="http://h")
_MISTAKES = {
    "broken YAML": ("version: 1\nprojects:\n  - name: [\n", ["r.yaml:"]),
    "a tab": ("version: 1\nprojects:\n\t- name: e2e\n", ["r.yaml:3"]),
    "a target that is no origin": (_GOOD.replace("http://h", "ftp://nowhere"), ["r.yaml:5", "target", "http"]),
    "a path with dots": (_GOOD.replace("/ok/*", "/ok/../x"), ["r.yaml:7", "path"]),
    "an unknown upstream": (_GOOD.replace("upstream: ok}", "upstream: oops}"), ["r.yaml:7", "oops"]),
    "an unknown field": (_GOOD.replace("upstreams:", "upstraems:"), ["r.yaml:4", "upstraems"]),
    "a document that contains itself": ("a: &a [*a]\n", ["r.yaml:"]),
    "an empty file": ("", ["r.yaml"]),
    "a NUL": ("\0", ["r.yaml"]),
}


@pytest.mark.parametrize("mistake", _MISTAKES)
async def test_a_mistake_is_told_with_its_place_and_changes_nothing(
    stack: Stack, books: Books, tmp_path: Path, mistake: str
) -> None:
    text, expected = _MISTAKES[mistake]
    before = await books.postgres.fetchval("SELECT max(revision) FROM changes")
    with pytest.raises(StackError) as refused:
        _apply(stack, tmp_path / "r.yaml", text)
    assert "Traceback" not in str(refused.value)
    for part in expected:
        assert part in str(refused.value)
    assert await books.postgres.fetchval("SELECT max(revision) FROM changes") == before
