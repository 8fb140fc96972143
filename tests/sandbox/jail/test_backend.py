"""Which way jails are made: cloned where that works, by bubblewrap where it does not or is not wanted."""

from __future__ import annotations

import os

import psutil
import pytest

from sandbox.backends.base import Backend, Unavailable
from sandbox.backends.jail import backend as module
from tests.sandbox.conftest import jail, start
from tests.sandbox.runs import says

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's jails are cloned")


def has_zygote(backend: module.JailBackend) -> bool:
    assert backend._link is not None
    children = psutil.Process(backend._link._process.pid).children()
    return any("zygote.py" in word for child in children for word in child.cmdline())


@pytest.mark.parametrize("bubblewrap_only", [False, True])
async def test_clones_unless_they_are_not_wanted(bubblewrap_only: bool) -> None:
    backend = jail(bubblewrap_only=bubblewrap_only)
    await start(backend)
    try:
        assert has_zygote(backend) is not bubblewrap_only
        assert await says(backend, "print('on')") == "on"
    finally:
        await backend.close()


async def test_where_clones_have_a_hole_bubblewrap_makes_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.check

    async def check(backend: Backend, layer: str | None = None) -> None:
        assert isinstance(backend, module.JailBackend)
        assert backend._setup is not None
        if backend._setup.clones:
            raise Unavailable("the self-test found open: a door")
        await real(backend, layer)

    monkeypatch.setattr(module, "check", check)
    backend = jail()
    await start(backend)
    try:
        assert "jails are not cloned here (the self-test found open: a door)" in caplog.text
        assert not has_zygote(backend)
        assert await says(backend, "print('on')") == "on"
    finally:
        await backend.close()


async def test_a_zygote_that_was_asked_for_is_not_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(backend: Backend, layer: str | None = None) -> None:
        raise Unavailable("the self-test found open: a door")

    monkeypatch.setattr(module, "check", check)
    with pytest.raises(Unavailable, match="a door"):
        await jail(zygote=True).start()
