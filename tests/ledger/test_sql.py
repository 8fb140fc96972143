"""Named statements: each file of the product loads, and a malformed one is refused."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from ledger import sql


@pytest.mark.parametrize("filename", ["ingest.sql", "partitions.sql", "usage.sql"])
def test_every_statement_of_the_ledger_has_a_name_and_a_text(filename: str) -> None:
    statements = sql.load("ledger", filename)

    assert statements
    assert all(statements.values())


def _load(text: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (directory / "statements.sql").write_text(text)
    monkeypatch.setattr(sql.resources, "files", lambda _: directory)
    return sql.load("anything", "statements.sql")


def test_statements_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "-- About the file.\n\n-- name: one\nSELECT 1;\n\n-- name: two\n-- why\nSELECT 2\nFROM x;\n"

    assert _load(text, tmp_path, monkeypatch) == {"one": "SELECT 1;", "two": "-- why\nSELECT 2\nFROM x;"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1;\n-- name: one\nSELECT 1;\n", "text before the first"),
        ("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n", "a name is given twice"),
    ],
)
def test_a_malformed_file_is_refused(
    text: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=complaint):
        _load(text, tmp_path, monkeypatch)


def test_planes_share_no_lock_but_that_of_the_control_tables() -> None:
    """Else signing in would wait for billing, and usage for signing in."""
    of_control_tables = "7240318801"
    locks = {
        plane: {
            number
            for path in files(plane).rglob("*")  # type: ignore[attr-defined]
            if path.suffix in (".sql", ".py")
            for number in re.findall(r"\b72403188\d\d\b", path.read_text())
        }
        for plane in ("admin", "ledger")
    }
    assert len(locks["ledger"]) > 5
    assert locks["admin"] & locks["ledger"] == {of_control_tables}
