"""What `tollgate dev` prints is true: the curl lines work as printed, and dev.json says the same."""

from __future__ import annotations

import subprocess
from urllib.parse import urlsplit

import pytest

from ledger.keys import is_well_formed
from tests.e2e import raw
from tests.e2e.stack import Stack


def _curl_lines(output: str) -> list[str]:
    """The commands in it that begin with `curl`, continuation lines joined."""
    joined = output.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("curl ")]


def test_the_printed_curl_lines_work_as_printed(stack: Stack) -> None:
    lines = _curl_lines(stack.output())
    assert len(lines) == 4, stack.output()
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert done.stdout, line
        assert '"code"' not in done.stdout, f"{line}\n{done.stdout}"


def test_the_demo_answers_a_kibibyte_of_json(stack: Stack) -> None:
    answer = raw.get(f"{stack.gateway}/demo/hello", {"X-API-Key": stack.info["keys"]["customer"]})
    assert (answer.status, len(answer.body)) == (200, 1024)
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()
    assert answer.headers["x-ratelimit-limit"] == "300"


def test_dev_json_says_where_everything_is(stack: Stack) -> None:
    info = stack.info
    assert set(info) >= {"gateway", "admin", "metrics", "postgres", "redis", "project", "customer", "keys", "pids"}
    assert set(info["project"]) >= {"id", "name"}
    assert set(info["customer"]) >= {"id", "externalId"}
    assert set(info["pids"]) >= {"gateway", "admin", "worker", "postgres", "redis"}
    for kind, prefix in (("secret", "sk_"), ("publishable", "pk_"), ("customer", "ck_")):
        key = info["keys"][kind]
        assert key.startswith(prefix)
        assert is_well_formed(key.encode())
    for url in info["metrics"].values():
        assert raw.get(url if urlsplit(url).path else url + "/metrics").status == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_both_public_planes_are_healthy_and_ready(stack: Stack, path: str) -> None:
    for plane in (stack.gateway, stack.admin):
        assert raw.get(plane + path).status == 200, plane + path


def test_no_secret_is_printed_but_the_demo_keys(stack: Stack) -> None:
    """Passwords of the stores, and keys that clients sent, are in no log."""
    raw.get(f"{stack.gateway}/c/count", {"X-API-Key": stack.secret_key})
    raw.get(f"{stack.gateway}/refused/x", {"X-API-Key": stack.secret_key})
    log = stack.log(lines=100_000)
    assert stack.secret_key not in log
    for url in (stack.postgres_url, stack.redis_url):
        password = urlsplit(url).password
        assert not password or password not in log
