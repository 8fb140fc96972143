"""`tollgate backup`, `restore` and `archive` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.admin.commands.conftest import Tollgate
from tests.admin.declared import SHOP


def test_there_and_back(tollgate: Tollgate, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tollgate("apply", "-f", "-", stdin=SHOP.encode()).status == 0
    exported = tollgate("export").out
    done = tollgate("backup", "ledger.tar")
    assert done.out.startswith("ledger.tar: ")
    assert Path("ledger.tar").exists()
    assert tollgate("restore", "ledger.tar").err.startswith("tollgate: the database is in use")

    monkeypatch.setenv("TOLLGATE_POSTGRES_URL", empty_postgres_url)
    assert tollgate("migrate").status == 0
    assert "are back, as of" in tollgate("restore", "ledger.tar").out
    assert tollgate("export").out == exported


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backup", "no/such/folder/b"], "cannot write no/such/folder/b"),
        (["restore", "nothing.tar"], "nothing.tar is no backup"),
        (["archive", "run"], "set worker.archive_directory"),
        (["archive", "bring-back", "usage_events_2020_01"], "there is no archive"),
        (["dead-letters", "replay", "12"], "'12' is no dead letter's id"),
        (["dead-letters", "list", "--limit", "0"], "--limit"),
    ],
)
def test_what_cannot_be_is_one_line(tollgate: Tollgate, arguments: list[str], message: str) -> None:
    done = tollgate(*arguments)
    assert done.status == 1
    assert message in done.err
    assert done.err.count("\n") == 1


def test_nothing_to_tell(tollgate: Tollgate) -> None:
    assert tollgate("dead-letters", "list").out == "There are none.\n"
    assert tollgate("dead-letters", "replay", "all").out == "There are none.\n"
    assert tollgate("dead-letters", "replay", "stream-7").status == 1
    assert tollgate("archive", "list").out == "There are none.\n"
    assert tollgate("archive", "run", "--directory", "old", "--after-months", "3").out == "There are none.\n"
