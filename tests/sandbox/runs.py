"""Short ways to make a job and run it."""

from __future__ import annotations

import textwrap
from typing import Any

from sandbox.backends.base import Backend, Handle, Sink
from sandbox.nouns import Ended, Job, Language, Limits, SourceFile

_made = 0


def job(code: str | bytes, language: Language = Language.PYTHON, **more: Any) -> Job:
    """A job of one file, dedented; `limits` and whatever else a Job has by keyword."""
    global _made
    _made += 1
    entry = "main.py" if language is Language.PYTHON else "main.js"
    content = textwrap.dedent(code).encode() if isinstance(code, str) else code
    files = (SourceFile(entry, content), *more.pop("more_files", ()))
    limits = more.pop("limits", Limits(timeout_ms=60_000))
    return Job(id=f"run-{_made}", language=language, files=files, entrypoint=entry, limits=limits, **more)


async def python(backend: Backend, code: str | bytes, *, sink: Sink | None = None, **more: Any) -> Ended:
    return await backend.run(job(code, **more), Handle(), sink)


async def node(backend: Backend, code: str, **more: Any) -> Ended:
    return await backend.run(job(code, Language.NODE, **more), Handle())


async def says(backend: Backend, code: str, **more: Any) -> str:
    """The standard output of Python code that must end well."""
    ended = await python(backend, code, **more)
    assert ended.exit_code == 0, ended.stderr.decode("utf-8", "replace")[-2000:]
    return ended.stdout.decode().strip()
