"""Running `tollgate` in this process."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tollgate.cli import main


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str


Tollgate = Callable[..., Done]


@pytest.fixture
def tollgate(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tollgate:
    """Runs a command in an empty folder against a fresh database; `stdin` is its standard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLGATE_POSTGRES_URL", postgres_url)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        try:
            status = main(list(arguments))
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(status, captured.out, captured.err)

    return run
