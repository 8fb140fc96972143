"""Packages through the service, from an index on loopback: installed once, without running anything of theirs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.packages.index import Index, index
from tests.sandbox.service import Asker, service


@pytest.fixture
async def served() -> AsyncIterator[Index]:
    async with index() as made:
        yield made


@pytest.fixture
async def asker(
    empty_postgres_url: str, served: Index, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Asker]:
    layers = Path("/var/tmp") / f"tollgate-layers-{os.getpid()}"
    more = {"python_index": f"{served.url}/simple", "node_registry": f"{served.url}/npm/", "layers_dir": layers}
    async with service(empty_postgres_url, egress_networks="127.0.0.1/32", warm_node=0, **more) as asker:
        yield asker
    shutil.rmtree(layers)


def body(code: str, *packages: str, **more: Any) -> dict[str, Any]:
    return {"lang": "python", "code": code, "packages": {"packages": list(packages)}, **more}


async def test_python_packages(asker: Asker, served: Index) -> None:
    text = "import greeting; print(greeting.WORD, greeting.__file__)"
    status, reply = await asker.run(body(text, "greeting==1.0"))
    assert status == 200, reply
    assert reply["stdout"] == "good day /pkgs/greeting/__init__.py\n", reply
    assert reply["packages"]["cache"] == "miss"
    assert reply["packages"]["installMs"] > 0
    asked = served.asked
    _, reply = await asker.run(body(text, "Greeting == 1.0"))  # the same, in another spelling
    assert reply["packages"] == {"cache": "hit", "installMs": 0}
    assert served.asked == asked
    _, reply = await asker.run(body("open('/pkgs/greeting/x', 'w')", "greeting==1.0"))
    assert "Read-only file system" in reply["stderr"]
    _, reply = await asker.run(body("import sys, importlib.util as u; print(u.find_spec('greeting'))"))
    assert reply["stdout"] == "None\n"


async def test_they_are_compiled_and_stay_so(asker: Asker) -> None:
    _, reply = await asker.run(
        body("import polite; print(polite.__cached__, __import__('os').path.exists(polite.__cached__))", "polite")
    )
    assert reply["stdout"].startswith("/pkgs/polite/__pycache__/__init__.cpython-3")
    assert reply["stdout"].endswith("True\n")


async def test_many_at_once_install_once(asker: Asker, served: Index) -> None:
    answers = await asyncio.gather(*(asker.run(body("import polite; print(1)", "polite==1.5")) for _ in range(4)))
    assert [reply["stdout"] for _, reply in answers] == ["1\n"] * 4
    assert served.asked == 1


async def test_nothing_of_a_package_is_run(asker: Asker) -> None:
    status, problem = await asker.run(body("print(1)", "sourceonly"))
    assert (status, problem["code"]) == (422, "packages_failed")
    assert "sourceonly" in problem["detail"]
    status, reply = await asker.run(
        {"lang": "node", "code": "console.log(require('scripted'))", "packages": {"packages": ["scripted"]}}
    )
    assert (status, reply["stdout"]) == (200, "false\n"), reply


async def test_node_packages(asker: Asker) -> None:
    request = {"lang": "node", "code": "console.log(require('greet'))", "packages": {"packages": ["greet@1.0.0"]}}
    status, reply = await asker.run(request)
    assert (status, reply["stdout"]) == (200, "bonjour\n"), reply
    _, reply = await asker.run(request)
    assert reply["packages"] == {"cache": "hit", "installMs": 0}


async def test_what_cannot_be_installed_is_told(asker: Asker) -> None:
    status, problem = await asker.run(body("print(1)", "no-such-thing"))
    assert (status, problem["code"]) == (422, "packages_failed")
    assert "no-such-thing" in problem["detail"]
    status, problem = await asker.run(body("print(1)", "polite==9"))
    assert (status, problem["code"]) == (422, "packages_failed")
    status, problem = await asker.run(body("import climber", "climber"))
    assert status in (200, 422)
    assert not list(Path("/var/tmp").glob("escaped.py"))
    status, problem = await asker.run(body("print(1)", "polite; rm -rf /"))
    assert (status, problem["errors"][0]["field"]) == (400, "packages.packages.0")
