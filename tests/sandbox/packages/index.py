"""A package index on loopback: wheels and a source distribution made here, and npm tarballs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

EVIL_SETUP = (
    "import os; os.system('touch /workspace/out/owned'); from setuptools import setup; setup(name='sourceonly')"
)


def wheel(name: str, version: str, files: dict[str, str], requires: tuple[str, ...] = ()) -> tuple[str, bytes]:
    """File name and content of a pure wheel."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {requirement}\n" for requirement in requires
    )
    every = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in every.items()
    )
    every[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in every.items():
            archive.writestr(path, text)
    return f"{name}-{version}-py3-none-any.whl", made.getvalue()


def tarball(files: dict[str, str], top: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{top}/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


class Index:
    """What is served, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.projects: dict[str, list[str]] = {}
        self.npm: dict[str, dict[str, object]] = {}

    def add(self, project: str, file: tuple[str, bytes]) -> None:
        self.projects.setdefault(project, []).append(file[0])
        self.files[file[0]] = file[1]

    def add_npm(self, name: str, files: dict[str, str], **more: object) -> None:
        manifest = {"name": name, "version": "1.0.0", **more}
        data = tarball({"package.json": json.dumps(manifest), **files}, "package")
        file = f"{name.replace('/', '-')}-1.0.0.tgz"
        self.files[file] = data
        sha = base64.b64encode(hashlib.sha512(data).digest()).decode()
        self.npm[name] = {**manifest, "dist": {"integrity": f"sha512-{sha}", "file": file}}

    async def simple(self, request: web.Request) -> web.Response:
        self.asked += 1
        names = self.projects.get(request.match_info["project"])
        if names is None:
            raise web.HTTPNotFound
        links = "".join(f'<a href="{self.url}/files/{name}">{name}</a>' for name in names)
        return web.Response(text=f"<!DOCTYPE html><html><body>{links}</body></html>", content_type="text/html")

    async def package(self, request: web.Request) -> web.Response:
        self.asked += 1
        name = request.match_info["name"].replace("%2f", "/")
        found = self.npm.get(name)
        if found is None:
            raise web.HTTPNotFound
        dist = {**found["dist"], "tarball": f"{self.url}/files/{found['dist']['file']}"}  # type: ignore[index, dict-item]
        version = {**found, "dist": dist}
        return web.json_response({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})

    async def file(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["name"]])


@asynccontextmanager
async def index() -> AsyncIterator[Index]:
    """A running index with a few packages, honest and not."""
    made = Index()
    made.add(
        "greeting", wheel("greeting", "1.0", {"greeting/__init__.py": "from polite import WORD\n"}, ("polite>=1",))
    )
    made.add("polite", wheel("polite", "1.5", {"polite/__init__.py": "WORD = 'good day'\n"}))
    source = tarball(
        {"setup.py": EVIL_SETUP, "PKG-INFO": "Metadata-Version: 1.0\nName: sourceonly\nVersion: 1.0\n"},
        "sourceonly-1.0",
    )
    made.add("sourceonly", ("sourceonly-1.0.tar.gz", source))
    made.add("climber", wheel("climber", "1.0", {"../../escaped.py": "x", "climber.py": "x = 1"}))
    made.add_npm("greet", {"index.js": "module.exports = require('polite-word')"}, dependencies={"polite-word": "1"})
    made.add_npm("polite-word", {"index.js": "module.exports = 'bonjour'"})
    made.add_npm(
        "scripted", {"index.js": "module.exports = require('fs').existsSync(__dirname + '/owned')"},
        scripts={"postinstall": "touch owned; touch /workspace/out/owned", "preinstall": "touch owned"},
    )  # fmt: skip
    app = web.Application()
    app.router.add_get("/simple/{project}/", made.simple)
    app.router.add_get("/files/{name}", made.file)
    app.router.add_get("/npm/{name:.+}", made.package)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()
