"""What a token's claims say about the caller: which end user, on which tier, with which scopes. Pure.

Where to look is declared per issuer (ledger.specs.ClaimsSpec), in one of three spellings:

    sub                          a claim; public_metadata.plan  one inside another
    /roles/0, /a~1b              a JSON pointer (RFC 6901), for lists and for names with dots
    https://example.com/plan     with `://` in it, one claim of exactly this name, as namespaced claims have

A claim that is not there, or null, is absent. How it fails: a token that names no usable end user is None; a tier that is
not text names no tier ("", which is nobody's name); scopes that are not text or a list of texts are none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ledger.specs import ClaimsSpec

Path = tuple[str, ...]

# What X-User-Id takes too (ledger.specs.ExternalId).
_is_external_id: Final = re.compile(r"[\x21-\x7e]{1,200}").fullmatch
_is_index: Final = re.compile(r"0|[1-9][0-9]{0,5}").fullmatch


class Paths(NamedTuple):
    """A ClaimsSpec taken apart."""

    customer: Path
    tier: Path | None
    scopes: Path | None


class Identity(NamedTuple):
    """Who bears a token. `tier` is None where the token says nothing about it."""

    external_id: str
    tier: str | None
    scopes: frozenset[str]


def paths_of(spec: ClaimsSpec) -> Paths:
    """The paths of a mapping."""
    return Paths(
        path_of(spec.customer),
        None if spec.tier is None else path_of(spec.tier),
        None if spec.scopes is None else path_of(spec.scopes),
    )


def path_of(text: str) -> Path:
    """The steps of a claim's path. `text` is valid (ledger.specs.ClaimPath)."""
    if text.startswith("/"):
        return tuple(step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/"))
    return (text,) if "://" in text else tuple(text.split("."))


def value_at(claims: Mapping[str, Any], path: Path) -> Any:
    """What is at the end of a path; None if there is nothing."""
    value: Any = claims
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and _is_index(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def identity_of(claims: Mapping[str, Any], paths: Paths) -> Identity | None:
    """Who the claims speak of, or None if they name no end user that could be counted for."""
    user = value_at(claims, paths.customer)
    if type(user) is int:
        user = str(user)
    if not isinstance(user, str) or not _is_external_id(user):
        return None
    tier = None if paths.tier is None else value_at(claims, paths.tier)
    scopes = None if paths.scopes is None else value_at(claims, paths.scopes)
    return Identity(user, tier if tier is None or isinstance(tier, str) else "", _scopes(scopes))


def _scopes(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list):
        return frozenset(item for item in value if isinstance(item, str))
    return frozenset()
