"""`tollgate doctor`: what it says of a deployment, and that it says it when something is away."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from config.encryption import new_key
from ledger import names
from tests.ledger.facts import fact
from tollgate.cli import main
from tollgate.doctor import findings
from tollgate.doctor.findings import Status, as_text, fail, ok, warn, worst


@pytest.fixture
def doctor(
    postgres_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """`doctor(**variables)` runs it against the test's servers; returns the status and the findings by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLGATE_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("TOLLGATE_REDIS_URL", redis_url)
    monkeypatch.setattr(
        "tollgate.doctor.runner.candidates", lambda settings: {}
    )  # tests/test_doctor_runner.py has them

    def run(**variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
        for name, value in variables.items():
            monkeypatch.setenv(f"TOLLGATE_{name}", value)
        status = main(["doctor", "--json"])
        report = json.loads(capsys.readouterr().out)
        assert (report["status"] == "fail") == (status == 1)
        return status, {check["name"]: check for check in report["checks"]}

    return run


def test_it_looks_at_everything_and_says_what_a_test_server_lacks(doctor: Any) -> None:
    status, found = doctor()
    assert status == 1
    statuses = {name: check["status"] for name, check in found.items()}
    assert {name for name, s in statuses.items() if s == "fail"} == {
        "postgres.fsync", "postgres.full_page_writes", "postgres.partitions", "redis.persistence",
    }  # fmt: skip
    fine = (
        "settings.postgres_url settings.redis_url settings.encryption_keys postgres.version postgres.migrations"
        " postgres.connections worker.dead_letters clock.postgres redis.version redis.role redis.eviction"
        " redis.counters worker.lag clock.redis spool.content"
    )
    assert [name for name in fine.split() if statuses[name] != "ok"] == []
    assert all(check["advice"] for check in found.values() if check["status"] != "ok")
    assert not (Path.cwd() / ".tollgate").exists()  # looking changes nothing


def test_what_is_away_is_a_finding_and_no_password_is_told(
    doctor: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(
        POSTGRES_URL="postgresql://u:very-secret@127.0.0.1:1/db", REDIS_URL="redis://:very-secret@127.0.0.1:1/0"
    )
    assert status == 1
    assert found["postgres.connection"]["status"] == found["redis.connection"]["status"] == "fail"
    assert "very-secret" not in json.dumps(found)
    assert main(["doctor"]) == 1
    assert "fail  redis.connection" in capsys.readouterr().out


def test_stored_credentials_are_opened(doctor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "projects: [{name: P, upstreams: [{name: u, targets: ['http://a'], credential: {query: k, value: s}}]}]"
    )
    old, new = new_key(), new_key()
    keys = tmp_path / "keys"
    keys.write_text(old)

    def status_with(**variables: str) -> Any:
        return doctor(**variables)[1]["settings.encryption_keys"]["status"]

    assert status_with(ENCRYPTION_KEYS_FILE=str(keys)) == "ok"
    assert main(["apply", "-f", str(file)]) == 0
    capsys.readouterr()
    doctor_said = [status_with()]
    for text in (f"{new} {old}", new, "", "nonsense"):
        keys.write_text(text)
        doctor_said.append(status_with())
    assert doctor_said == ["ok", "warn", "fail", "fail", "fail"]


def test_usage_that_waits_lost_counters_and_dead_letters_are_told(
    doctor: Any, redis_url: str, postgres_url: str, postgres_server: Any
) -> None:
    client = redis.Redis.from_url(redis_url)
    stream = names.usage_stream(3)
    client.xadd(stream, {"e": json.dumps(fact())}, id=f"{int((time.time() - 600) * 1000)}-0")
    client.delete(names.epoch(0), names.epoch(7))
    client.zadd(names.GATEWAYS, {"gw-1": time.time(), "gw-2": time.time() - 60})
    _, found = doctor()
    assert found["worker.lag"]["status"] == "fail"
    assert "1 usage events" in found["worker.lag"]["detail"]
    assert found["redis.counters"]["detail"].startswith("the counters of 2 of 16")
    assert found["gateway.alive"]["detail"] == "1 gateway processes"
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert doctor()[1]["redis.eviction"]["status"] == "fail"
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.close()


def test_a_spool_that_cannot_be_used_or_holds_something(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor(GATEWAY_SPOOL_DIR=str(tmp_path / "file"))[1]["spool.folder"]["status"] == "fail"
    spool = tmp_path / "spool" / "gw-1"
    spool.mkdir(parents=True)
    (spool / "00000001.seg").write_bytes(b"x")
    assert "1 segments" in doctor(GATEWAY_SPOOL_DIR=str(spool.parent))[1]["spool.content"]["detail"]
    (spool / "00000001.torn").write_bytes(b"x")
    assert "1 damaged" in doctor()[1]["spool.content"]["detail"]
    assert doctor(GATEWAY_SPOOL_MAX_BYTES="0")[1]["spool.folder"]["status"] == "warn"


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("redis://:password@db.internal/0", Status.FAIL),
        ("redis://db.internal/0", Status.FAIL),
        ("redis://127.0.0.1/0", Status.WARN),
        ("redis://:x9Qw7-eE2pLk@db.internal/0", Status.OK),
    ],
)
def test_passwords_that_everybody_knows(url: str, status: Status) -> None:
    assert findings.of_password("redis_url", url).status is status


@pytest.mark.parametrize(
    ("finding", "status"),
    [
        (findings.of_postgres_version(140012), Status.FAIL),
        (findings.of_postgres_version(150004), Status.OK),
        (findings.of_migrations(1, 0), Status.FAIL),
        (findings.of_migrations(0, 1), Status.WARN),
        (findings.of_connections(96, 100), Status.FAIL),
        (findings.of_connections(81, 100), Status.WARN),
        (findings.of_dead_letters(1, "id: missing"), Status.WARN),
        (findings.of_redis_version("6.0.16"), Status.FAIL),
        (findings.of_redis_version("8.0.1"), Status.OK),
        (findings.of_role("slave"), Status.FAIL),
        (findings.of_eviction(None), Status.WARN),
        (findings.of_persistence("yes", "always", "ok"), Status.OK),
        (findings.of_persistence("yes", "everysec", "ok"), Status.OK),
        (findings.of_persistence("yes", "no", "ok"), Status.WARN),
        (findings.of_persistence("no", "everysec", "ok"), Status.FAIL),
        (findings.of_persistence("yes", "always", "err"), Status.FAIL),
        (findings.of_persistence(None, None, ""), Status.WARN),
        (findings.of_memory(97, 100, 1000), Status.FAIL),
        (findings.of_memory(85, 100, 1000), Status.WARN),
        (findings.of_memory(10, 100, 1000), Status.OK),
        (findings.of_memory(10, 0, 1000), Status.WARN),
        (findings.of_latency(0.2, 1.0, 100), Status.OK),
        (findings.of_latency(12, 20, 100), Status.WARN),
        (findings.of_latency(1, 101, 100), Status.FAIL),
        (findings.of_lag(0, 0, 0), Status.OK),
        (findings.of_lag(5, 11, 0), Status.WARN),
        (findings.of_lag(5, 0, 1), Status.FAIL),
        (findings.of_skew("redis", -0.6), Status.WARN),
        (findings.of_skew("redis", 6), Status.FAIL),
        (findings.of_keys(None, False, 0, 0, 0), Status.OK),
        (findings.of_keys(None, True, 3, 0, 0), Status.OK),
        (findings.of_keys(None, True, 3, 0, 1), Status.WARN),
        (findings.of_keys(None, True, 3, 1, 1), Status.FAIL),
        (findings.of_keys("no key in it", True, 3, 0, 0), Status.FAIL),
    ],
    ids=lambda value: value.name if isinstance(value, findings.Finding) else str(value),
)
def test_how_bad_it_is(finding: findings.Finding, status: Status) -> None:
    assert finding.status is status
    assert bool(finding.advice) == (status is not Status.OK)


def test_the_text_says_what_to_do_and_counts() -> None:
    found = [ok("a.b", "fine"), warn("long.name", "soon", "do this"), fail("c", "broken", "do that")]
    assert worst(found) is Status.FAIL
    assert as_text(found).splitlines() == [
        "ok    a.b        fine",
        "warn  long.name  soon",
        "                 → do this",
        "fail  c          broken",
        "                 → do that",
        "1 fine, 1 to watch, 1 wrong",
    ]
