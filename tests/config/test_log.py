"""Log lines: their form, their extras, and no secret in any part of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from config.log import setup
from config.settings import Settings
from ledger.keys import KeyKind, Mode, generate

log = logging.getLogger("tollgate.test")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_a_json_line_has_its_fields_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings(), "gateway")
    log.info("said %s", "hello", extra={"request_id": "0199", "status": 200})
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "plane": "gateway",
        "logger": "tollgate.test",
        "message": "said hello",
        "request_id": "0199",
        "status": 200,
    }


def test_a_console_line_is_for_people_and_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings(log_format="console"), "admin")
    log.warning("path %s", "/x\n12:00:00 error", extra={"request_id": "0199"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line[13:] == "warning admin    path /x\\x0a12:00:00 error  request_id=0199"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_written_wherever_it_stands(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings.model_validate({"log_format": log_format}), "gateway")
    key = generate(KeyKind.CUSTOMER, Mode.TEST).text
    try:
        raise ValueError(f"cannot connect to redis://:hunter2@h, key {key}")
    except ValueError:
        log.exception(
            "with %s", key, extra={"header": f"Bearer {key}", "password": "hunter2", "url": "http://u:hunter2@h"}
        )
    written = capsys.readouterr().err
    assert key[12:] not in written
    assert "hunter2" not in written
    assert "ValueError" in written


def test_levels_below_the_setting_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings(log_level="error"), "worker")
    log.warning("not this")
    assert capsys.readouterr().err == ""


def test_values_that_are_not_json_are_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    setup(Settings(), "worker")
    log.info("\udcff", extra={"object": object, "number": 2**80})
    assert json.loads(capsys.readouterr().err)["number"] == 2**80
