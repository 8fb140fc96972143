"""Credentials from the command line: values from the environment, keys, rotation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.encryption import decode_keys
from tests.admin.commands.conftest import Tollgate

SECRET = "sk-from-the-environment"
DECLARED = """
projects:
  - name: P
    upstreams:
      - name: u
        targets: ["https://api.example.com"]
        credential: {header: Authorization, prefix: "Bearer ", value_from_env: UPSTREAM_KEY}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    file = tmp_path / "p.yaml"
    file.write_text(DECLARED, encoding="utf-8")
    return str(file)


def test_from_a_fresh_key_to_a_rotated_one(tollgate: Tollgate, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (tollgate("secrets", "new-key").out.strip() for _ in range(2))
    assert len(decode_keys(f"{first},{second}")) == 2
    monkeypatch.setenv("UPSTREAM_KEY", SECRET)
    monkeypatch.setenv("TOLLGATE_ENCRYPTION_KEYS", first)
    done = tollgate("apply", "-f", file)
    assert (done.status, SECRET in done.out + done.err) == (0, False)
    assert tollgate("apply", "-f", file).out.startswith("Nothing changes")
    assert SECRET not in tollgate("export").out
    assert first not in tollgate("config").out

    monkeypatch.setenv("TOLLGATE_ENCRYPTION_KEYS", f"{second}, {first}")
    assert tollgate("secrets", "reseal").out == "1 sealed with the newest key, 0 were already.\n"
    monkeypatch.setenv("TOLLGATE_ENCRYPTION_KEYS", second)
    assert tollgate("secrets", "reseal").out == "0 sealed with the newest key, 1 were already.\n"
    assert tollgate("apply", "-f", file).out.startswith("Nothing changes")

    monkeypatch.setenv("TOLLGATE_ENCRYPTION_KEYS", first)
    lost = tollgate("secrets", "reseal")
    assert (lost.status, "none of the keys opens the secret of: ups_" in lost.err) == (1, True)


@pytest.mark.parametrize(("value", "what"), [(None, "is not set"), ("", "is not set"), ("a\nb", "printable ASCII")])
def test_a_variable_without_a_value(
    tollgate: Tollgate, file: str, monkeypatch: pytest.MonkeyPatch, value: str | None, what: str
) -> None:
    if value is not None:
        monkeypatch.setenv("UPSTREAM_KEY", value)
    done = tollgate("apply", "-f", file)
    assert done.status == 1
    assert f"{file}:7:64: projects[0].upstreams[0].credential.value_from_env: the variable UPSTREAM_KEY " in done.err
    assert what in done.err


def test_without_an_encryption_key(tollgate: Tollgate, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", SECRET)
    done = tollgate("apply", "-f", file)
    assert (done.status, SECRET in done.err) == (1, False)
    assert "no encryption key is set" in done.err
    assert "TOLLGATE_ENCRYPTION_KEYS" in tollgate("secrets", "reseal").err


def test_with_a_key_that_is_none(tollgate: Tollgate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ENCRYPTION_KEYS", "hunter2")
    done = tollgate("secrets", "reseal")
    assert (done.status, "hunter2" in done.err) == (1, False)
    assert "TOLLGATE_ENCRYPTION_KEYS: encryption_keys: expected keys of 32 bytes" in done.err


def test_the_key_of_a_running_tollgate_dev_is_found(
    tollgate: Tollgate, file: str, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOLLGATE_POSTGRES_URL")
    monkeypatch.setenv("UPSTREAM_KEY", SECRET)
    (tmp_path / ".tollgate").mkdir()
    (tmp_path / ".tollgate" / "dev.json").write_text(json.dumps({"postgres": postgres_url}))
    (tmp_path / ".tollgate" / "encryption.key").write_text(tollgate("secrets", "new-key").out)
    assert tollgate("apply", "-f", file).status == 0
    assert tollgate("secrets", "reseal").out == "0 sealed with the newest key, 1 were already.\n"
