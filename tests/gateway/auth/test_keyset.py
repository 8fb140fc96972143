"""Which keys of a set are used, and what for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.auth.keyset import MAX_KEYS, BadKeySet, KeySet, parse_key_set
from tests.support.issuer import ALGORITHMS, SigningKey, key_set, segment, signing_key


def _set_of(*keys: SigningKey | dict[str, Any]) -> KeySet:
    return parse_key_set(key_set(*keys))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_verifies_what_was_signed_with_it_and_nothing_else(algorithm: str) -> None:
    key = signing_key(algorithm)
    found = _set_of(key).find("k1", algorithm)
    assert found is not None
    signature = key.sign(b"message")
    assert found.has_signed(b"message", signature, algorithm)
    assert not found.has_signed(b"massage", signature, algorithm)
    assert not found.has_signed(b"message", signing_key(algorithm, number=1).sign(b"message"), algorithm)
    for other in {*ALGORITHMS, "HS256", "none", "", "RS256 ", algorithm.lower()} - {algorithm}:
        assert not found.has_signed(b"message", signature, other)
    for broken in (b"", b"\0", signature[:-1], signature + b"\0", b"\0" * len(signature), b"\xff" * len(signature)):
        assert not found.has_signed(b"message", broken, algorithm)


def test_a_key_with_alg_is_for_that_alone() -> None:
    key = signing_key("RS256")
    free, bound = _set_of(key).find("k1", "RS256"), _set_of(key.jwk(alg="RS256")).find("k1", "RS256")
    assert free is not None
    assert free.algorithms == {"RS256", "RS384", "RS512", "PS256"}
    assert bound is not None
    assert bound.algorithms == {"RS256"}


def _small_rsa() -> dict[str, Any]:
    return SigningKey("RS256", "k1", rsa.generate_private_key(65537, 1024)).jwk()


def _rsa_with_exponent(bits: int) -> dict[str, Any]:
    return signing_key("RS256").jwk(e=segment(((1 << bits) + 1).to_bytes(9, "big").lstrip(b"\0")).decode())


def _p521() -> dict[str, Any]:
    return SigningKey("ES512", "k1", ec.generate_private_key(ec.SECP521R1())).jwk()


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "kid": "k1", "k": "c2VjcmV0"},
        {"kty": "oct", "kid": "k1", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "oct", "kid": "k1", "k": "c2VjcmV0", "alg": "RS256"},
        signing_key("RS256").jwk(alg="HS256"),
        signing_key("RS256").jwk(alg="none"),
        signing_key("RS256").jwk(alg="RSA-OAEP"),
        signing_key("RS256").jwk(alg="ES256"),
        signing_key("RS256").jwk(use="enc"),
        signing_key("RS256").jwk(key_ops=["encrypt"]),
        signing_key("RS256").jwk(key_ops="verify"),
        signing_key("RS256").jwk(kid=7),
        signing_key("RS256").jwk(kid=""),
        signing_key("RS256").jwk(kid="x" * 201),
        signing_key("RS256").jwk(n="!!"),
        signing_key("RS256").jwk(n=7),
        signing_key("RS256").jwk(n=None),
        signing_key("RS256").jwk(e="AQ"),
        signing_key("RS256").jwk(crv=7),
        signing_key("RS256").jwk(d="AQAB"),
        signing_key("ES256").jwk(d="AQAB"),
        signing_key("ES256").jwk(crv="P-384"),
        signing_key("ES256").jwk(crv=None),
        signing_key("ES256").jwk(x="AQ"),
        signing_key("ES256").jwk(x=segment(b"\1" * 32).decode()),
        signing_key("EdDSA").jwk(crv="X25519"),
        signing_key("EdDSA").jwk(x="AQ"),
        signing_key("ES256").jwk(kty="OKP"),
        {"kid": "k1"},
        {"kty": ["RSA"], "kid": "k1"},
        _small_rsa(),
        _rsa_with_exponent(40),
        _p521(),
    ],
    ids=lambda jwk: f"{jwk.get('kty')}-{jwk.get('alg')}-{jwk.get('crv')}",
)
def test_what_is_not_to_be_used_is_left_out(jwk: dict[str, Any]) -> None:
    good = signing_key("EdDSA", "good")
    keys = _set_of(jwk, good)
    assert len(keys) == 1
    for algorithm in ALGORITHMS:
        assert keys.find("k1", algorithm) is None
    assert keys.find("good", "EdDSA") is not None


def test_entries_that_are_no_objects_are_left_out() -> None:
    document = orjson.dumps({"keys": [None, 1, "key", [], signing_key().jwk()]})
    assert len(parse_key_set(document)) == 1


@pytest.mark.parametrize(
    "document",
    [b"", b"<html>", b"[]", b"7", b"null", b"{}", b'{"keys": {}}', b'{"keys": null}', b"\xff\xfe", b"[" * 100_000],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(BadKeySet):
        parse_key_set(document)


def test_a_set_of_very_many_keys_is_refused() -> None:
    jwks = [signing_key("EdDSA").jwk(kid=f"k{n}") for n in range(MAX_KEYS + 1)]
    assert len(_set_of(*jwks[:-1])) == MAX_KEYS
    with pytest.raises(BadKeySet):
        _set_of(*jwks)


def test_a_set_with_nothing_usable_is_an_empty_set() -> None:
    assert len(parse_key_set(b'{"keys": []}')) == 0
    assert len(_set_of({"kty": "oct", "k": "c2VjcmV0"})) == 0


def test_without_a_key_id_only_the_only_key_can_be_meant() -> None:
    first, second = signing_key("ES256", "a"), signing_key("EdDSA", "b")
    assert _set_of(first).find(None, "ES256") is not None
    assert _set_of(first, second).find(None, "ES256") is None
    assert _set_of(signing_key("ES256", None)).find(None, "ES256") is not None
    assert _set_of(signing_key("ES256", None)).find("a", "ES256") is None


def test_keys_of_two_types_may_share_an_id_but_two_that_fit_may_not() -> None:
    keys = _set_of(signing_key("ES256", "a"), signing_key("RS256", "a"))
    es, rs = keys.find("a", "ES256"), keys.find("a", "RS512")
    assert es is not None
    assert es.algorithms == {"ES256"}
    assert rs is not None
    assert "RS512" in rs.algorithms
    twice = _set_of(signing_key("ES256", "a"), signing_key("ES256", "a", number=1))
    assert twice.find("a", "ES256") is None


def test_a_key_that_is_published_twice_is_one_key() -> None:
    assert len(_set_of(signing_key(), signing_key())) == 1
