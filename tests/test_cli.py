"""The command line: what a user sees of errors, help and settings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tollgate.cli import COMMANDS, main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without tollgate.toml, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("TOLLGATE_CONFIG", "TOLLGATE_POSTGRES_URL", "TOLLGATE_REDIS_URL", "TOLLGATE_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_help_lists_every_command_and_imports_none() -> None:
    code = "import sys, tollgate.cli\ntry: tollgate.cli.main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *help_lines, modules = done.stdout.splitlines()
    for name, _ in COMMANDS:
        assert any(line.strip().startswith(name) for line in help_lines)
    assert not {"pydantic", "aiohttp", "asyncpg"} & set(modules.split())


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_command_exists_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.util.find_spec(f"tollgate.commands.{name.replace('-', '_')}") is not None
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: tollgate {name}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["--config", "x", "dev"], ["dev", "--workers", "many"]])
def test_a_wrong_command_line_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: tollgate")


def test_config_prints_every_setting_its_value_and_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tollgate.toml").write_text("[admin]\nport = 9001\n")
    monkeypatch.setenv("TOLLGATE_GATEWAY_PORT", "9000")
    monkeypatch.setenv("TOLLGATE_POSTGRES_URL", "postgresql://tollgate:hunter2@db/tollgate")
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["gateway.port"] == ["9000", "TOLLGATE_GATEWAY_PORT"]
    assert rows["admin.port"] == ["9001", "tollgate.toml:2"]
    assert rows["worker.batch_size"] == ["2000", "default"]
    assert rows["postgres_url"] == ["postgresql://tollgate:***@db/tollgate", "TOLLGATE_POSTGRES_URL"]
    assert "hunter2" not in out


def test_another_file_is_read_where_one_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text("redis_shards = 1\n")
    (tmp_path / "b.toml").write_text("redis_shards = 2\n")
    monkeypatch.setenv("TOLLGATE_CONFIG", "b.toml")
    assert main(["config"]) == 0
    assert main(["config", "--config", "a.toml"]) == 0
    out = capsys.readouterr().out
    assert "b.toml:1" in out
    assert "a.toml:1" in out


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["config", "--config", "no.toml"], {}, "cannot read no.toml: No such file or directory"),
        (["config"], {"TOLLGATE_GATEWAY_PROT": "1"}, "did you mean TOLLGATE_GATEWAY_PORT?"),
        (["migrate"], {}, "no database: set TOLLGATE_POSTGRES_URL"),
        (["worker"], {"TOLLGATE_POSTGRES_URL": "postgresql://db/x"}, "no Redis: set TOLLGATE_REDIS_URL"),
        (
            ["migrate"],
            {"TOLLGATE_POSTGRES_URL": "postgresql://u:hunter2@127.0.0.1:1/x"},
            "cannot connect to PostgreSQL",
        ),
        (["dev", "--gateway-port", "70000"], {}, "command line: gateway.port: input should be less than"),
        (["dev", "--workers", "0"], {}, "command line: gateway.workers: input should be greater than"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_status_1(
    argv: list[str],
    environ: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tollgate: ")
    assert message in line
    assert "hunter2" not in line


def test_migrate_applies_once(
    empty_postgres_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_POSTGRES_URL", empty_postgres_url)
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out.startswith("applied 0001_ledger.sql\n")
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out == "nothing to apply\n"


async def test_a_database_of_a_newer_release_is_refused(postgres_url: str, pg: asyncpg.Connection) -> None:
    await pg.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, '9999_future.sql', 'x')")
    done = subprocess.run(
        [sys.executable, "-m", "tollgate.cli", "migrate"],
        env={"TOLLGATE_POSTGRES_URL": postgres_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "9999_future.sql was applied by a newer release" in done.stderr


def test_output_that_nobody_reads_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m tollgate.cli config | true"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
