"""`tollgate apply` and `tollgate export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.admin.commands.conftest import Tollgate
from tests.admin.declared import SHOP


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP, encoding="utf-8")
    return file


def test_a_dry_run_then_the_real_one_then_nothing(tollgate: Tollgate, file: Path) -> None:
    dry = tollgate("apply", "-f", str(file), "--dry-run")
    assert dry.status == 0
    assert dry.out.splitlines()[:3] == ["project Shop", "  + project Shop", "  + tier pro (test)"]
    assert dry.out.splitlines()[-2:] == ["13 created.", "Dry run: nothing was changed."]
    assert tollgate("apply", "-f", str(file)).out.splitlines() == dry.out.splitlines()[:-1]
    again = tollgate("apply", "-f", str(file))
    assert (again.status, again.out) == (0, "Nothing changes: it is so already.\n")


def test_an_update_is_shown_with_the_projects_name(tollgate: Tollgate, file: Path) -> None:
    tollgate("apply", "-f", str(file))
    file.write_text(SHOP.replace("price_minor: 4900", "price_minor: 5900"), encoding="utf-8")
    assert tollgate("apply", "-f", str(file)).out.splitlines() == [
        "project Shop",
        "  ~ tier pro (test)",
        "      price_minor: 4900 -> 5900",
        "  ~ tier pro (live)",
        "      price_minor: 4900 -> 5900",
        "2 updated.",
    ]


def test_prune(tollgate: Tollgate, file: Path) -> None:
    tollgate("apply", "-f", str(file))
    file.write_text(SHOP[: SHOP.index("    routes:")], encoding="utf-8")
    assert tollgate("apply", "-f", str(file)).out.startswith("Nothing changes")
    assert "  - route all" in tollgate("apply", "-f", str(file), "--prune").out


def test_standard_input(tollgate: Tollgate) -> None:
    assert tollgate("apply", "-f", "-", stdin=SHOP.encode()).status == 0
    broken = tollgate("apply", "-f", "-", stdin=b"projects: }")
    assert (broken.status, "standard input:1:11: not YAML" in broken.err) == (1, True)


def test_faults_have_file_line_and_field(tollgate: Tollgate, file: Path) -> None:
    file.write_text("projects:\n  - name: Shop\n    tires: []\n    kind: zoo\n", encoding="utf-8")
    done = tollgate("apply", "-f", str(file))
    assert (done.status, done.out) == (1, "")
    assert f"{file}:3:5: projects[0].tires: unknown field; did you mean 'tiers'?" in done.err
    assert f"{file}:4:5: projects[0].kind: expected 'saas' or 'store', got 'zoo'" in done.err


def test_what_the_database_refuses_has_its_place_in_the_file_too(tollgate: Tollgate, file: Path) -> None:
    tollgate("apply", "-f", str(file))
    file.write_text(SHOP.replace("name: Shop", "name: Thief"), encoding="utf-8")
    done = tollgate("apply", "-f", str(file))
    line = 1 + next(i for i, text in enumerate(SHOP.splitlines()) if "name: all" in text)
    assert done.status == 1
    assert f"{file}:{line}:21: projects[0].routes[0].path: any method any host/shop/* is served by a route" in done.err
    assert "Thief" not in tollgate("export").out


def test_files_that_cannot_be_read(tollgate: Tollgate, tmp_path: Path) -> None:
    assert "cannot read nowhere.yaml: No such file" in tollgate("apply", "-f", "nowhere.yaml").err
    assert "cannot read" in tollgate("apply", "-f", str(tmp_path)).err


def test_export_round_trips_through_a_file(tollgate: Tollgate, file: Path, tmp_path: Path) -> None:
    tollgate("apply", "-f", str(file))
    printed = tollgate("export")
    assert tollgate("export", "--project", "Shop", "-o", "out.yaml").out == ""
    assert (tmp_path / "out.yaml").read_text(encoding="utf-8") == printed.out
    assert tollgate("apply", "-f", "out.yaml", "--prune").out.startswith("Nothing changes")
    assert tollgate("export", "--project", "Gone").err.strip().endswith("no project is called 'Gone'")
    assert "cannot write" in tollgate("export", "-o", str(tmp_path / "no" / "x")).err


def test_without_a_database_it_says_what_to_do(tollgate: Tollgate, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLGATE_POSTGRES_URL")
    done = tollgate("apply", "-f", str(file))
    assert done.status == 1
    assert "set TOLLGATE_POSTGRES_URL" in done.err
    assert "tollgate dev" in done.err


def test_a_running_tollgate_dev_is_found(
    tollgate: Tollgate, file: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOLLGATE_POSTGRES_URL")
    for directory in (".tollgate", "elsewhere"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "dev.json").write_text(json.dumps({"postgres": postgres_url}))
    assert tollgate("apply", "-f", str(file)).status == 0
    assert tollgate("apply", "-f", str(file), "--state-dir", "elsewhere").out.startswith("Nothing changes")
    (tmp_path / "elsewhere" / "dev.json").write_text("[")
    assert "cannot read elsewhere/dev.json" in tollgate("export", "--state-dir", "elsewhere").err


def test_a_database_that_is_away_or_empty(
    tollgate: Tollgate, file: Path, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_POSTGRES_URL", empty_postgres_url)
    assert "PostgreSQL is not migrated; run `tollgate migrate`" in tollgate("apply", "-f", str(file)).err
    monkeypatch.setenv("TOLLGATE_POSTGRES_URL", "postgresql://user:hunter2@127.0.0.1:1/x")
    done = tollgate("apply", "-f", str(file))
    assert done.status == 1
    assert "hunter2" not in done.err
