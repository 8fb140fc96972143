"""`tollgate keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.keys import is_well_formed
from tests.admin.commands.conftest import Tollgate
from tests.admin.declared import SHOP


@pytest.fixture
def declared(tollgate: Tollgate, tmp_path: Path) -> Tollgate:
    """Project Shop is there."""
    assert tollgate("apply", "-f", "-", stdin=SHOP.encode()).status == 0
    return tollgate


def test_the_life_of_a_key(declared: Tollgate) -> None:
    text = declared("keys", "create", "--name", "ci").out.strip()
    assert is_well_formed(text.encode())
    assert text.startswith("sk_test_")
    (listed,) = json.loads(declared("keys", "list", "--json").out)
    assert (listed["name"], listed["prefix"]) == ("ci", text[:12])

    new = json.loads(declared("keys", "rotate", listed["id"], "--grace-seconds", "60", "--json").out)
    assert is_well_formed(new["key"].encode())
    table = declared("keys", "list").out
    assert table.startswith("ID")
    assert f"rotated to {new['id']}, expires" in table
    assert declared("keys", "rotate", listed["id"]).err.strip().endswith(f"rotate its successor {new['id']}")

    assert f"Key {new['id']} (ci) is revoked since" in declared("keys", "revoke", new["id"]).out
    assert json.loads(declared("keys", "revoke", new["id"], "--json").out)["revoked_at"]
    assert "revoked 20" in declared("keys", "list").out


def test_every_option(declared: Tollgate) -> None:
    arguments = "--mode live --customer ada --scope a --scope b --requests-per-minute 5 --allow-ip 10.0.0.0/8"
    arguments += " --allow-origin *.example.com --expires-at 2030-01-31T00:00:00Z --json --project Shop"
    made = json.loads(declared("keys", "create", "--name", "x", *arguments.split()).out)
    assert made["key"].startswith("ck_live_")
    (listed,) = json.loads(declared("keys", "list", "--mode", "live", "--json").out)
    assert (
        listed.items()
        >= {
            "id": made["id"],
            "kind": "ck",
            "customer": "ada",
            "scopes": ["a", "b"],
            "requests_per_minute": 5,
            "allowed_origins": ["*.example.com"],
            "allowed_ips": ["10.0.0.0/8"],
        }.items()
    )


def test_kinds_by_either_name(declared: Tollgate) -> None:
    for kind, prefix in (("secret", "sk"), ("publishable", "pk"), ("pk", "pk")):
        assert declared("keys", "create", "--name", "x", "--kind", kind).out.startswith(f"{prefix}_test_")


WRONG: list[tuple[list[str], str]] = [
    (["create", "--name", ""], "name: expected 1 to 200 characters on one line, got ''"),
    (["create", "--name", "x", "--kind", "ck"], "a ck key needs a customer"),
    (["create", "--name", "x", "--customer", "gone"], "customer: no test customer is called 'gone'"),
    (["create", "--name", "x", "--expires-at", "soon"], "expires_at: expected a moment such as"),
    (["create", "--name", "x", "--expires-at", "2001-01-01T00:00:00Z"], "expires_at: expires_at is in the past"),
    (["create", "--name", "x", "--project", "Gone"], "no project is called 'Gone'"),
    (["revoke", "key_0"], "there is no key 'key_0'"),
    (["rotate", "nope"], "there is no key 'nope'"),
    (["rotate", "key_\udcff"], "there is no key"),
    (["create", "--name", "\udcff"], "name: expected"),
    (["list", "--project", "\udcff"], "no project is called"),
]


def test_what_is_wrong_is_told_in_a_line(declared: Tollgate) -> None:
    for arguments, message in WRONG:
        done = declared("keys", *arguments)
        assert (done.status, done.out) == (1, "")
        assert message in done.err


def test_the_project_is_asked_for_where_there_are_several(declared: Tollgate) -> None:
    declared("apply", "-f", "-", stdin=b"projects: [{name: Other}]")
    done = declared("keys", "create", "--name", "x")
    assert (done.status, "say which project with --project (Other, Shop)" in done.err) == (1, True)


def test_without_any_project(tollgate: Tollgate) -> None:
    assert "none yet; `tollgate apply` makes them" in tollgate("keys", "list").err
    assert tollgate("keys", "list", "--project", "Platform").out == "Project Platform has no test keys.\n"
