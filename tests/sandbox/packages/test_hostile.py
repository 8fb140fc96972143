"""Packages that are out to do harm, in jails and in containers: bombs, links, paths that climb, code that runs unasked."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.engine import IMAGE, engine
from tests.sandbox.packages.index import Index, index, wheel
from tests.sandbox.service import Asker, service

MIB = 1 << 20
LAYERS = Path("/var/tmp") / f"tollgate-hostile-{os.getpid()}"


@cache
def bomb(name: str, size: int, count: int = 1) -> tuple[str, bytes]:
    """A wheel that is small as long as nobody unpacks it."""
    file, made = wheel(name, "1.0", {f"{name}.py": "x = 1"})
    packed = io.BytesIO(made)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(count):
            with archive.open(f"{name}_data/{number}", "w", force_zip64=True) as entry:
                for _ in range(size // MIB):
                    entry.write(bytes(MIB))
    return file, packed.getvalue()


def tarball(entries: list[tarfile.TarInfo | tuple[str, int]]) -> bytes:
    """An npm package of these links and files of zeros, with a manifest."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
        manifest = json.dumps({"name": "x", "version": "1.0.0"}).encode()
        files: list[tuple[str, bytes]] = [
            ("package/package.json", manifest),
            ("package/index.js", b"module.exports = 1"),
        ]
        for path, content in files:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for each in entries:
            if isinstance(each, tarfile.TarInfo):
                archive.addfile(each)
            else:
                entry = tarfile.TarInfo(each[0])
                entry.size = each[1]
                archive.addfile(entry, io.BytesIO(bytes(each[1])))
    return made.getvalue()


def link(path: str, target: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = kind, target
    return entry


def add_npm(served: Index, name: str, data: bytes) -> None:
    served.add_npm(name, {})
    served.files[f"{name}-1.0.0.tgz"] = data
    dist = served.npm[name]["dist"]
    assert isinstance(dist, dict)
    del dist["integrity"]


@cache
def tar_bomb() -> bytes:
    return tarball([("package/large", 330 * MIB)])


@pytest.fixture
async def served() -> AsyncIterator[Index]:
    async with index() as made:
        yield made


@pytest.fixture(params=["jail", "docker"])
async def asker(request: pytest.FixtureRequest, empty_postgres_url: str, served: Index) -> AsyncIterator[Asker]:
    more: dict[str, Any] = {"python_index": f"{served.url}/simple", "node_registry": f"{served.url}/npm/"}
    more |= {"layers_dir": LAYERS, "egress_networks": "127.0.0.1/32", "warm_python": 1, "warm_node": 0}
    if request.param == "docker":
        more |= {"docker_url": engine(), "docker_image": IMAGE}
    async with service(empty_postgres_url, backend=request.param, **more) as asker:
        yield asker
        left = [path for path in (LAYERS / "layers").iterdir() if path.name.startswith("new-")]
        assert left == []
        for path in LAYERS.rglob("*"):
            assert not path.is_symlink()
            assert path.is_file() or path.is_dir()
        assert (await asker.run({"lang": "python", "code": "print('fine')"}))[1]["stdout"] == "fine\n"
    shutil.rmtree(LAYERS)


async def run(asker: Asker, code: str, *packages: str, lang: str = "python") -> tuple[int, Any]:
    return await asker.run({"lang": lang, "code": code, "packages": {"packages": list(packages)}})


async def test_bombs_go_off_where_they_harm_nobody(asker: Asker, served: Index) -> None:
    served.add("zipbomb", bomb("zipbomb", 330 * MIB))
    served.add("manyfiles", bomb("manyfiles", 0, count=21_000))
    add_npm(served, "tarbomb", tar_bomb())
    for lang, package in (("python", "zipbomb"), ("python", "manyfiles"), ("node", "tarbomb")):
        status, problem = await run(asker, "", package, lang=lang)
        assert (status, problem["code"]) == (422, "packages_failed"), package
    assert [
        path for path in LAYERS.rglob("*") if path.is_file() and path.name != "uv" and path.stat().st_size > MIB
    ] == []


async def test_links_and_paths_that_climb(asker: Asker, served: Index, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    climb = "package/" + "../" * 12
    add_npm(
        served,
        "climbing",
        tarball(
            [
                link("package/shadow", "/etc/shadow", tarfile.SYMTYPE),
                link("package/hard", "/etc/passwd", tarfile.LNKTYPE),
                link("package/up", "..", tarfile.SYMTYPE),
                ("package/up/beside", 4),
                (climb + str(victim).lstrip("/"), 4),
                ("/var/tmp/absolute", 4),
                link("package/fifo", "", tarfile.FIFOTYPE),
                link("package/device", "", tarfile.BLKTYPE),
            ]
        ),
    )
    code = "console.log(require('climbing'), require('fs').readdirSync('/pkgs/node_modules/climbing').sort().join())"
    status, reply = await run(asker, code, "climbing", lang="node")
    assert status in (200, 422), reply
    if status == 200:
        assert not {"shadow", "hard", "fifo", "device"} & set(reply["stdout"].split()[-1].split(",")), reply
    served.add("climber", wheel("climber", "1.0", {"../../escaped.py": "x", "climber.py": "x = 1"}))
    await run(asker, "import climber", "climber")
    assert victim.read_text() == "untouched"
    assert not Path("/var/tmp/absolute").exists()
    assert not list(Path("/var/tmp").glob("**/escaped.py"))


async def test_nothing_of_a_package_runs_unless_it_is_imported(asker: Asker, served: Index) -> None:
    evil = "import os; open('/workspace/out/owned', 'w')\n"
    files = {"pathfile.pth": evil, "sitecustomize.py": evil, "pathfile.py": "x = 1"}
    served.add("pathfile", wheel("pathfile", "1.0", files))
    status, reply = await run(asker, "import pathfile; print(pathfile.x)", "pathfile")
    assert (status, reply["stdout"], "artifacts" in reply) == (200, "1\n", False), reply
    status, problem = await run(asker, "print(1)", "sourceonly")
    assert (status, problem["code"]) == (422, "packages_failed")
    status, reply = await run(asker, "console.log(require('scripted'))", "scripted", lang="node")
    assert (status, reply["stdout"]) == (200, "false\n"), reply


async def test_a_package_as_large_as_it_may_be(asker: Asker, served: Index) -> None:
    """Larger than a run's own workspace: an installation has 256 MiB."""
    served.add("large", bomb("large", 90 * MIB))
    status, reply = await run(asker, "import large, os; print(os.path.getsize('/pkgs/large_data/0') >> 20)", "large")
    assert (status, reply.get("stdout")) == (200, "90\n"), reply
