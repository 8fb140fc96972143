"""What is hidden, and that the rest stays."""

from __future__ import annotations

import json

import pytest

from config.redact import redact
from ledger.keys import KeyKind, Mode, generate


@pytest.mark.parametrize("kind", list(KeyKind))
@pytest.mark.parametrize("mode", list(Mode))
def test_every_kind_of_key_is_cut_to_its_display_prefix(kind: KeyKind, mode: Mode) -> None:
    key = generate(kind, mode)
    assert redact(f"refused {key.text}, again") == f"refused {key.prefix}***, again"


def test_a_key_that_lost_its_end_or_gained_one_is_hidden_too() -> None:
    text = generate(KeyKind.SECRET, Mode.LIVE).text
    assert text[12:20] not in redact(text[:-5])
    assert text[-6:] not in redact(text + "ABC")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Bearer eyJhbGciOi.eyJzdWIi.c2ln-_x", "Authorization: Bearer ***"),
        ("bearer opaque-token~1", "bearer ***"),
        ("'authorization': 'Basic dXNlcjpodW50ZXIy'", "'authorization': 'Basic ***'"),
        ("postgresql://tollgate:hunter2@db:5432/tollgate", "postgresql://tollgate:***@db:5432/tollgate"),
        ("redis://:hunter2@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("https://user:p@ss@host/x", "https://user:***@host/x"),
    ],
)
def test_credentials_are_hidden(text: str, hidden: str) -> None:
    assert redact(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "listening on http://127.0.0.1:8080/demo",
        "prj_06f0000000 owns key_06f0abcdef",
        "mail to ada@example.com: http://example.com/",
        "pk_staging_abcdef",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_json_stays_json() -> None:
    line = json.dumps(
        {"url": "redis://:pw", "mail": "a@b", "header": "Bearer abcdefgh", "then": 1}, separators=(",", ":")
    )
    assert json.loads(redact(line)) == {"url": "redis://:pw", "mail": "a@b", "header": "Bearer ***", "then": 1}
