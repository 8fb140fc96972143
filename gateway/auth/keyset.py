"""The public keys of an issuer (a JWK Set, RFC 7517), and what each of them may be used for. Pure.

What a key may verify is fixed by the key, never by a token: an RSA key verifies RS256, RS384, RS512 and PS256, a P-256 key
ES256, a P-384 key ES384, an Ed25519 key EdDSA, and a key with `alg` that one alone. Symmetric keys (`oct`) and `none` have
no entry anywhere, so there is nothing that a token signed with them could be checked against.

Left out of a set: keys for encryption, of other types and curves, with a private part (whoever published it lost it), RSA
keys under 2048 bits, and RSA keys that are slow to use (over 4096 bits, or a large exponent), which would let one project's
issuer hold up everybody's requests. A set in which nothing is usable is a set all the same: it is the issuer's word that
no token is good. How it fails: a document that is no key set is BadKeySet.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

MAX_KEYS: Final = 64
_MAX_KEY_ID: Final = 200
_RSA_BITS: Final = range(2048, 4097)
_MAX_RSA_EXPONENT: Final = 2**32

_IMPLEMENTED: Final = get_default_algorithms()
_USES: Final[dict[tuple[str, str | None], tuple[str, ...]]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


class BadKeySet(Exception):
    """The document is not a key set. The message says why and repeats nothing of it."""


class VerifyingKey:
    """One public key. `algorithms` are those it may verify; two keys are the same if their JWKs are."""

    __slots__ = ("_key", "algorithms", "key_id", "text")

    def __init__(self, jwk: dict[str, Any], algorithms: tuple[str, ...], key: Any) -> None:
        self.key_id: str | None = jwk.get("kid")
        self.algorithms = frozenset(algorithms)
        self.text = orjson.dumps(jwk, option=orjson.OPT_SORT_KEYS)
        self._key = key

    def has_signed(self, message: bytes, signature: bytes, algorithm: str) -> bool:
        """True if `signature` is this key's over `message`, by an algorithm the key is for."""
        return algorithm in self.algorithms and _IMPLEMENTED[algorithm].verify(message, self._key, signature)


class KeySet:
    """The usable keys of a document."""

    __slots__ = ("_by_id", "_keys", "texts")

    def __init__(self, keys: list[VerifyingKey]) -> None:
        self._keys = keys
        self._by_id: dict[str, list[VerifyingKey]] = {}
        for key in keys:
            if key.key_id is not None:
                self._by_id.setdefault(key.key_id, []).append(key)
        self.texts = frozenset(key.text for key in keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key_id: str | None, algorithm: str) -> VerifyingKey | None:
        """The one key a token can mean, or None. A token without a key id means the only key of the set."""
        found = self._by_id.get(key_id, []) if key_id is not None else self._keys if len(self._keys) == 1 else []
        if len(found) > 1:  # some issuers give a key of each type the same id
            found = [key for key in found if algorithm in key.algorithms]
        return found[0] if len(found) == 1 else None


def parse_key_set(document: bytes) -> KeySet:
    """The key set in a document. Raises BadKeySet."""
    try:
        parsed = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise BadKeySet("answered with something that is not JSON") from None
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise BadKeySet("answered with something that is not a JWK set (an object with a list `keys`)")
    if len(entries) > MAX_KEYS:
        raise BadKeySet(f"answered with more than {MAX_KEYS} keys")
    keys: dict[bytes, VerifyingKey] = {}
    for jwk in entries:
        key = _usable(jwk) if isinstance(jwk, dict) else None
        if key is not None:
            keys[key.text] = key
    return KeySet(list(keys.values()))


def _usable(jwk: dict[str, Any]) -> VerifyingKey | None:
    """The key of a JWK, or None if it is not to be used."""
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if not isinstance(kty, str) or not isinstance(crv, str | None) or "d" in jwk:
        return None
    algorithms = _USES.get((kty, None if kty == "RSA" else crv), ())
    named = jwk.get("alg")
    if named is not None:
        algorithms = tuple(algorithm for algorithm in algorithms if algorithm == named)
    if not algorithms or not _is_for_signatures(jwk) or not _is_key_id(jwk.get("kid")):
        return None
    try:
        key = _IMPLEMENTED[algorithms[0]].from_jwk(jwk)
    except (PyJWTError, ValueError, TypeError, AttributeError):
        return None
    if isinstance(key, RSAPublicKey) and (key.key_size not in _RSA_BITS or not _is_quick(key)):
        return None
    return VerifyingKey(jwk, algorithms, key)


def _is_quick(key: RSAPublicKey) -> bool:
    return key.public_numbers().e < _MAX_RSA_EXPONENT


def _is_for_signatures(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops")
    return jwk.get("use", "sig") == "sig" and (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    )


def _is_key_id(key_id: Any) -> bool:
    return key_id is None or (isinstance(key_id, str) and 0 < len(key_id) <= _MAX_KEY_ID)
