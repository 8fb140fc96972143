"""Where claims are found, and what they say about the caller."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.auth.claims import Identity, identity_of, path_of, paths_of, value_at
from ledger.specs import ClaimsSpec

CLAIMS: dict[str, Any] = {
    "sub": "ada",
    "public_metadata": {"plan": "pro", "seats": 3},
    "roles": ["admin", {"name": "owner"}],
    "a/b": {"m~n": "escaped"},
    "https://example.com/plan": "gold",
    "with.dot": "only by pointer",
    "": "empty",
    "nothing": None,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sub", "ada"),
        ("public_metadata.plan", "pro"),
        ("public_metadata.missing", None),
        ("sub.plan", None),
        ("roles.0", "admin"),
        ("/roles/1/name", "owner"),
        ("/roles/2", None),
        ("/roles/-1", None),
        ("/roles/00", None),
        ("/roles/admin", None),
        ("/a~1b/m~0n", "escaped"),
        ("/with.dot", "only by pointer"),
        ("with.dot", None),
        ("https://example.com/plan", "gold"),
        ("/", "empty"),
        ("nothing", None),
        ("nothing.more", None),
    ],
)
def test_a_path_leads_to_a_value_or_nowhere(path: str, value: Any) -> None:
    assert value_at(CLAIMS, path_of(ClaimsSpec(tier=path).tier or "")) == value


def test_an_escape_is_undone_once() -> None:
    assert path_of("/~01") == ("~1",)


@pytest.mark.parametrize("path", ["", ".", "a..b", ".a", "a.", "a b", "/a~2b", "/a~", "é", "a\nb", "x" * 201])
def test_what_is_no_path_cannot_be_declared(path: str) -> None:
    with pytest.raises(ValidationError):
        ClaimsSpec(tier=path)


def _identity(claims: dict[str, Any], **spec: str | None) -> Identity | None:
    return identity_of(claims, paths_of(ClaimsSpec.model_validate(spec)))


def test_a_token_says_who_on_which_tier_with_which_scopes() -> None:
    claims = {"sub": "ada", "publicMetadata": {"plan": "pro"}, "scope": "read  write"}
    assert _identity(claims, tier="publicMetadata.plan") == Identity("ada", "pro", frozenset(("read", "write")))


def test_what_is_not_mapped_is_not_looked_at() -> None:
    assert _identity({"sub": "ada", "plan": "pro", "scope": "all"}, scopes=None) == Identity("ada", None, frozenset())


@pytest.mark.parametrize(
    ("user", "known_as"),
    [("ada", "ada"), (17, "17"), ("x" * 200, "x" * 200), ("user|a@b.c", "user|a@b.c")],
)
def test_an_end_user_is_text_or_a_number(user: Any, known_as: str) -> None:
    identity = _identity({"sub": user})
    assert identity is not None
    assert identity.external_id == known_as


@pytest.mark.parametrize(
    "user", [None, "", "a b", "a\r\nX-Evil: 1", "\u00e9", "\ud800", "x" * 201, True, 1.5, [], {}, ["ada"], 10**300]
)
def test_what_could_not_be_a_user_id_is_nobody(user: Any) -> None:
    assert _identity({"sub": user}) is None


def test_nobody_is_named_by_a_claim_that_is_missing() -> None:
    assert _identity({}) is None


@pytest.mark.parametrize(("plan", "tier"), [("pro", "pro"), (None, None), ("", ""), (3, ""), (["pro"], ""), ({}, "")])
def test_a_plan_that_is_not_text_names_no_tier(plan: Any, tier: str | None) -> None:
    identity = _identity({"sub": "ada", "plan": plan}, tier="plan")
    assert identity is not None
    assert identity.tier == tier


@pytest.mark.parametrize(
    ("scopes", "found"),
    [
        ("a b", {"a", "b"}),
        (["a", "b c"], {"a", "b c"}),
        (["a", 1, None], {"a"}),
        ("", set()),
        (None, set()),
        (7, set()),
        ({"a": True}, set()),
        (True, set()),
    ],
)
def test_scopes_are_a_list_or_text_with_spaces(scopes: Any, found: set[str]) -> None:
    identity = _identity({"sub": "ada", "scp": scopes}, scopes="scp")
    assert identity is not None
    assert identity.scopes == found


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "sub"]), _JSON), st.sampled_from(["a", "a.b", "/a/0", "sub", "/a/b/0"])
)
def test_no_claims_break_it(claims: dict[str, Any], path: str) -> None:
    identity = _identity(claims, customer=path, tier=path, scopes=path)
    assert identity is None or identity.external_id
