"""Reading and checking one token (JWS compact form, RFC 7515; JWT, RFC 7519; the advice of RFC 8725). Pure.

A token is read strictly, then its signature is checked with the one key and algorithm it can mean, then its claims. What
two readers could understand differently is refused: duplicate members at any depth, padding, whitespace or stray bits in
base64url, NaN and infinity, text that is not UTF-8. So are extensions that must be understood (`crit`, `b64`) and tokens
of another kind (`typ`). Keys that a token brings along or points to (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.

PyJWT's algorithms do the cryptography; its `decode` is not used: it takes the wall clock as the time, keeps the last of
duplicate members, and (2.15) walks a token byte by byte in Python, which costs more than the signature itself.

How it fails: a `Rejection`, whose value is the public sentence for `error_description`; nothing of the token is repeated.
"""

from __future__ import annotations

import json
import re
from binascii import Error, a2b_base64, b2a_base64
from enum import Enum
from typing import Any, Final, NamedTuple

from ledger.specs import IssuerSpec, SigningAlgorithm

MAX_TOKEN_BYTES: Final = 8192
_MAX_KEY_ID: Final = 200
_LATEST: Final = 2**53
"""Seconds; a date beyond is no date."""

_ALGORITHMS: Final = frozenset(SigningAlgorithm)
_TYPES: Final = frozenset((None, "jwt", "at+jwt", "application/at+jwt", "application/jwt"))
"""What a token may be called. Others (logout+jwt, dpop+jwt, …) are signed by the same issuer and mean something else."""
_parts: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)").fullmatch
_TO_PLAIN: Final = bytes.maketrans(b"-_", b"+/")
_PADDING: Final = (b"", b"", b"==", b"=")


class Rejection(Enum):
    """Why a token is not accepted."""

    NOT_A_TOKEN = "This is not a well-formed signed JWT."  # noqa: S105 - a sentence
    TOO_LONG = "The token is longer than 8192 bytes."
    NOT_SUPPORTED = "The algorithm, type or an extension of the token is not supported."
    UNKNOWN_ISSUER = "The token is not from an issuer that is known here."
    UNKNOWN_KEY = "The token is signed with a key that its issuer does not publish."
    BAD_SIGNATURE = "The signature of the token is not valid."
    EXPIRED = "The token has expired."
    NO_EXPIRY = "The token does not say when it expires."
    NOT_YET = "The token is not valid yet."
    WRONG_AUDIENCE = "The token is for another audience."
    NO_CUSTOMER = "The token does not say whose it is."
    KEYS_UNAVAILABLE = "The issuer's keys cannot be had at the moment."
    """Not the token's fault: 503, never 401."""


class Token(NamedTuple):
    """A token as read: nothing in it is to be believed before `signed` is verified."""

    algorithm: str
    key_id: str | None
    claims: dict[str, Any]
    issuer: str
    signed: bytes
    signature: bytes


def read(text: bytes) -> Token | Rejection:
    """Take a token apart."""
    if len(text) > MAX_TOKEN_BYTES:
        return Rejection.TOO_LONG
    parts = _parts(text)
    if parts is None:
        return Rejection.NOT_A_TOKEN
    try:
        header, claims = _object(parts[1]), _object(parts[2])
        signature = _decoded(parts[3])
    except (ValueError, RecursionError):
        return Rejection.NOT_A_TOKEN
    algorithm, kind, key_id = header.get("alg"), header.get("typ"), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(kind, str | None) or not isinstance(key_id, str | None):
        return Rejection.NOT_A_TOKEN
    if algorithm not in _ALGORITHMS or (kind and kind.lower()) not in _TYPES or "crit" in header or "b64" in header:
        return Rejection.NOT_SUPPORTED
    if key_id is not None and len(key_id) > _MAX_KEY_ID:
        return Rejection.UNKNOWN_KEY
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        return Rejection.UNKNOWN_ISSUER
    return Token(algorithm, key_id, claims, issuer, text[: parts.end(2)], signature)


def check_claims(claims: dict[str, Any], spec: IssuerSpec, now: float) -> float | Rejection:
    """When a token expires (Unix seconds), or why its claims do not hold now; its signature is verified already."""
    if claims.get("iss") != spec.issuer:
        return Rejection.UNKNOWN_ISSUER
    expires = claims.get("exp")
    if expires is None:
        return Rejection.NO_EXPIRY
    if not _is_date(expires):
        return Rejection.NOT_A_TOKEN
    if expires + spec.leeway_s <= now:
        return Rejection.EXPIRED
    for name in ("nbf", "iat"):
        begins = claims.get(name)
        if begins is None:
            continue
        if not _is_date(begins):
            return Rejection.NOT_A_TOKEN
        if begins - spec.leeway_s > now:
            return Rejection.NOT_YET
    if spec.audiences and not _is_for(claims.get("aud"), spec.audiences):
        return Rejection.WRONG_AUDIENCE
    return float(expires)


def _is_date(value: Any) -> bool:
    """True for a NumericDate: seconds since 1970, whole or not."""
    return type(value) in (int, float) and 0 <= value <= _LATEST


def _is_for(audience: Any, wanted: tuple[str, ...]) -> bool:
    named = audience if isinstance(audience, list) else [audience]
    return any(each in wanted for each in named if isinstance(each, str))


def _decoded(segment: bytes) -> bytes:
    """base64url without padding, in its one canonical spelling. Raises ValueError."""
    if len(segment) % 4 == 1:
        raise ValueError("no length of base64")
    plain = segment.translate(_TO_PLAIN) + _PADDING[len(segment) % 4]
    try:
        data = a2b_base64(plain, strict_mode=True)
    except Error as error:
        raise ValueError(str(error)) from None
    if b2a_base64(data, newline=False) != plain:
        raise ValueError("bits beyond the end")
    return data


def _object(segment: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError, or RecursionError for one that is nested too deeply."""
    value = json.loads(_decoded(segment).decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
