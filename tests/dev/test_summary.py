"""What `tollgate dev` tells: exactly the promised keys, and lines that can be pasted."""

from __future__ import annotations

from pathlib import Path

from config.load import load
from tollgate.dev import summary
from tollgate.dev.demo import Demo

SETTINGS = load(
    None,
    {
        "TOLLGATE_POSTGRES_URL": "postgresql://tollgate:hunter2@127.0.0.1:5432/tollgate",
        "TOLLGATE_REDIS_URL": "redis://:hunter2@127.0.0.1:6379/0",
        "TOLLGATE_GATEWAY_HOST": "0.0.0.0",
        "TOLLGATE_ADMIN_HOST": "::1",
    },
    {},
).settings
DEMO = Demo("prj_1", "cus_1", {"secret": "sk_test_a", "publishable": "pk_test_b", "customer": "ck_test_c"})
LINK = "http://127.0.0.1:8080/auth/verify?token=x"
PIDS = {"gateway": [1, 2], "admin": [3], "worker": [4], "postgres": 5, "redis": None}


def test_dev_json_has_exactly_the_promised_keys() -> None:
    assert summary.info(SETTINGS, DEMO, PIDS, LINK) == {
        "gateway": "http://127.0.0.1:8080",
        "admin": "http://[::1]:8081",
        "metrics": {
            "gateway": "http://127.0.0.1:8090/metrics",
            "admin": "http://[::1]:8091/metrics",
            "worker": "http://127.0.0.1:8092/metrics",
            "sandbox": "http://127.0.0.1:8093/metrics",
        },
        "sandbox": "http://127.0.0.1:8082",
        "postgres": "postgresql://tollgate:hunter2@127.0.0.1:5432/tollgate",
        "redis": "redis://:hunter2@127.0.0.1:6379/0",
        "project": {"id": "prj_1", "name": "Demo"},
        "customer": {"id": "cus_1", "externalId": "demo"},
        "keys": {"secret": "sk_test_a", "publishable": "pk_test_b", "customer": "ck_test_c"},
        "signIn": "http://127.0.0.1:8080/auth/verify?token=x",
        "pids": PIDS,
    }


def test_the_text_shows_urls_keys_and_curl_lines_but_no_server_password() -> None:
    text = summary.text(summary.info(SETTINGS, DEMO, PIDS, LINK), Path(".tollgate"))
    for shown in (
        "http://127.0.0.1:8080",
        "http://[::1]:8081",
        "sk_test_a",
        "pk_test_b",
        "ck_test_c",
        LINK,
        ".tollgate/dev.json",
    ):
        assert shown in text
    assert "hunter2" not in text
    curls = [line.strip() for line in text.splitlines() if "curl " in line]
    assert len(curls) == 4
    assert all(line.startswith("curl ") and line.isascii() for line in curls)


def test_without_a_demo_there_is_nothing_to_try() -> None:
    info = summary.info(SETTINGS, None, PIDS)
    assert (info["project"], info["customer"], info["keys"]) == (None, None, None)
    assert "curl" not in summary.text(info, Path(".tollgate"))
