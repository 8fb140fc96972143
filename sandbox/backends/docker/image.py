"""`python -m sandbox.backends.docker.image NAME`: an image from this machine's own interpreters, without any registry.

What goes in: Python with its standard library, Node and npm where they are, a shell with a few programs, the libraries all
of them and uv are linked against, and the guest's files. Nothing else of the machine.
"""

from __future__ import annotations

import glob
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import docker
import uv

from sandbox.backends.jail.bwrap import GUEST_DIR

GUEST_FILES: Final = Path(__file__).parent.parent.parent / "guest"
_PROGRAMS: Final = ("sh", "ls", "cat", "echo", "env", "true", "sleep", "mkdir", "rm", "cp", "head", "tail", "wc", "id")
_FILES: Final = {
    "etc/passwd": "root:x:0:0::/:/bin/sh\nsandbox:x:1000:1000::/workspace:/bin/sh\n",
    "etc/group": "root:x:0:\nsandbox:x:1000:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def archive(python: str = "/usr/bin/python3", node: str = "/usr/bin/node") -> bytes:
    """The image's file system as a tar."""
    stdlib = subprocess.run(  # noqa: S603 - the configured interpreter
        [python, "-I", "-S", "-c", "import os, sys; print(os.path.dirname(os.__file__), sys.version_info[1])"],
        capture_output=True,
        text=True,
        check=True,
        env={},
    ).stdout.split()[0]
    programs = [os.path.realpath(python), *(f"/usr/bin/{name}" for name in _PROGRAMS)]
    if os.path.exists(node):
        programs.append(os.path.realpath(node))
    modules = glob.glob(f"{stdlib}/lib-dynload/*.so")
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as tar:
        for name in ("bin", "lib", "lib64", "sbin"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for name in ("proc", "dev", "sys", "tmp", "workspace", "run", "etc", "pkgs", "node_modules", "usr/sbin"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name in ("tmp", "workspace") else 0o755
            tar.addfile(directory)
        seen: set[str] = set()
        for path in [*programs, *_libraries([*programs, *modules, uv.find_uv_bin()])]:
            _add(tar, os.path.realpath(path), path, seen)
        _add(tar, os.path.realpath(python), "/usr/bin/python3", seen)
        if os.path.exists(node):
            _add(tar, os.path.realpath(node), "/usr/bin/node", seen)
            _add_npm(tar)
        tar.add(stdlib, stdlib.lstrip("/"), filter=_wanted)
        for file in GUEST_FILES.iterdir():
            if file.is_file():
                _add(tar, str(file), f"{GUEST_DIR}/{file.name}", seen)
        for name, text in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return found.getvalue()


def _add_npm(tar: tarfile.TarFile) -> None:
    """npm where this machine keeps it, if it is one directory of its own."""
    found = shutil.which("npm")
    program = Path(found).resolve() if found is not None else None
    if program is None or (program.parent.name, program.parent.parent.name) != ("bin", "npm"):
        return
    where = f"usr/local/lib/node_modules/npm/{program.relative_to(program.parent.parent)}"
    tar.add(program.parent.parent, "usr/local/lib/node_modules/npm", filter=_of_root)
    link = tarfile.TarInfo("usr/bin/npm")
    link.type, link.linkname = tarfile.SYMTYPE, f"/{where}"
    tar.addfile(link)


def _libraries(programs: list[str]) -> list[str]:
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607
    listed = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE)
    extra = glob.glob("/lib/*-linux-gnu/libnss_*.so.2") + glob.glob("/lib/*-linux-gnu/libresolv.so.2")
    extra += glob.glob("/lib/*-linux-gnu/libgcc_s.so.1")
    return sorted({re.sub(r"^/(lib|lib64)/", r"/usr/\1/", path) for path in (*listed, *extra)})


def _add(tar: tarfile.TarFile, source: str, name: str, seen: set[str]) -> None:
    if name in seen:
        return
    seen.add(name)
    entry = tarfile.TarInfo(name.lstrip("/"))
    data = Path(source).read_bytes()
    entry.size, entry.mode = len(data), os.stat(source).st_mode & 0o755
    tar.addfile(entry, io.BytesIO(data))


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if re.search(
        r"/(test|tests|idlelib|lib2to3|ensurepip|dist-packages|site-packages|tkinter|__pycache__)(/|$)", entry.name
    ):
        return None
    return _of_root(entry)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def load(name: str, url: str | None = None) -> None:
    """Make the image in an Engine. Raises docker errors."""
    api = docker.APIClient(base_url=url or os.environ.get("DOCKER_HOST"), timeout=120)
    repository, _, tag = name.partition(":")
    told = api.import_image_from_data(archive(), repository=repository, tag=tag or "latest")
    if '"error"' in told:
        raise docker.errors.APIError(told)
    api.close()


if __name__ == "__main__":
    load(sys.argv[1] if len(sys.argv) > 1 else "tollgate-sandbox")
