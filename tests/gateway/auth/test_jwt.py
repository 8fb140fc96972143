"""One token: how strictly it is read, what its signature and its claims must be, with the clock in the test's hands."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth.jwt import MAX_TOKEN_BYTES, Rejection, Token, check_claims, read
from gateway.auth.keyset import parse_key_set
from ledger.specs import IssuerSpec
from tests.support.issuer import ALGORITHMS, SigningKey, as_json, key_set, segment, signing_key

ISS = "https://issuer.test/"
NOW = 1_800_000_000.0
CLAIMS: dict[str, Any] = {"iss": ISS, "sub": "ada", "exp": NOW + 60}
KEY = signing_key("ES256")


def _verdict(token: bytes, *keys: SigningKey | dict[str, Any]) -> Token | Rejection:
    """What a token is, after its signature was checked against a key set."""
    found = read(token)
    if isinstance(found, Rejection):
        return found
    key = parse_key_set(key_set(*keys)).find(found.key_id, found.algorithm)
    if key is None:
        return Rejection.UNKNOWN_KEY
    return found if key.has_signed(found.signed, found.signature, found.algorithm) else Rejection.BAD_SIGNATURE


def _token(key: SigningKey = KEY, /, **header: Any) -> bytes:
    return key.token(CLAIMS, **header)


# -- signatures


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_every_algorithm_is_verified(algorithm: str) -> None:
    key = signing_key(algorithm)
    token = _verdict(_token(key), key)
    assert isinstance(token, Token)
    assert (token.algorithm, token.key_id, token.issuer) == (algorithm, "k1", ISS)
    assert token.claims["sub"] == "ada"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_another_key_with_the_same_id_is_not(algorithm: str) -> None:
    assert _verdict(_token(signing_key(algorithm, number=1)), signing_key(algorithm)) is Rejection.BAD_SIGNATURE


def test_no_changed_character_goes_unnoticed() -> None:
    token = _token()
    for at in range(len(token)):
        changed = bytearray(token)
        changed[at] = ord("A") if token[at] != ord("A") else ord("B")
        assert isinstance(_verdict(bytes(changed), KEY), Rejection), f"at {at}"
        assert isinstance(_verdict(token[:at] + token[at + 1 :], KEY), Rejection), f"without {at}"


def _hmac_token(secret: bytes, algorithm: str = "HS256") -> bytes:
    message = segment(as_json({"alg": algorithm, "typ": "JWT", "kid": "k1"})) + b"." + segment(as_json(CLAIMS))
    return message + b"." + segment(hmac.digest(secret, message, "sha256"))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "hs256", "RS256"])
@pytest.mark.parametrize("form", ["pem", "der", "jwk", "empty"])
def test_the_public_key_is_no_secret_to_sign_with(form: str, algorithm: str) -> None:
    key = signing_key("RS256")
    public = key.private.public_key()
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(key.jwk()).encode(),
        "empty": b"",
    }[form]
    assert _verdict(_hmac_token(secret, algorithm), key) in (Rejection.NOT_SUPPORTED, Rejection.BAD_SIGNATURE)


def test_a_published_symmetric_key_verifies_nothing() -> None:
    secret = b"s" * 32
    oct_key = {"kty": "oct", "kid": "k1", "k": segment(secret).decode(), "alg": "HS256"}
    assert _verdict(_hmac_token(secret), oct_key) is Rejection.NOT_SUPPORTED
    assert _verdict(_hmac_token(secret, "RS256"), oct_key) is Rejection.UNKNOWN_KEY


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", " none", "RS256 ", "rs256", "es256", "eddsa"]
)
@pytest.mark.parametrize("signature", [b"", b"AA", segment(sha256(b"").digest())])
def test_no_spelling_of_none_is_an_algorithm(algorithm: str, signature: bytes) -> None:
    token = segment(as_json({"alg": algorithm, "kid": "k1"})) + b"." + segment(as_json(CLAIMS)) + b"." + signature
    assert read(token) is (Rejection.NOT_SUPPORTED if signature else Rejection.NOT_A_TOKEN)


@pytest.mark.parametrize(
    "algorithm", ["RS512", "PS256", "ES256", "ES384", "EdDSA", "ES512", "ES256K", "PS384", "RSA1_5"]
)
def test_a_token_cannot_choose_how_it_is_verified(algorithm: str) -> None:
    """Signed with RS256, it says something else."""
    key = signing_key("RS256")
    assert _verdict(_token(key, alg=algorithm), key) in (Rejection.BAD_SIGNATURE, Rejection.NOT_SUPPORTED)


def test_a_key_that_a_token_brings_along_is_not_looked_at() -> None:
    attacker = signing_key("ES256", "evil", number=1)
    for header in (
        {"jwk": attacker.jwk()},
        {"jwk": attacker.jwk(), "kid": None},
        {"jku": "http://127.0.0.1:1/jwks.json", "kid": "evil"},
        {"x5u": "http://127.0.0.1:1/", "x5c": ["MIIB"], "kid": "evil"},
    ):
        token = attacker.token(CLAIMS, **header)
        assert _verdict(token, signing_key("ES256", "k1"), signing_key("EdDSA", "k2")) is Rejection.UNKNOWN_KEY
    assert _verdict(attacker.token(CLAIMS, jwk=attacker.jwk(), kid="k1"), KEY) is Rejection.BAD_SIGNATURE


@pytest.mark.parametrize(
    "key_id",
    ["../../k1", "k1\0", "k1' OR '1'='1", "file:///dev/null", "K1", "", " k1", "\ud800", "k1/../k1", "x" * 201],
)
def test_a_key_id_is_a_name_and_nothing_else(key_id: str) -> None:
    assert _verdict(_token(kid=key_id), KEY) is Rejection.UNKNOWN_KEY


@pytest.mark.parametrize("key_id", [1, True, ["k1"], {"k1": 1}, 1.5])
def test_a_key_id_is_text(key_id: Any) -> None:
    assert read(_token(kid=key_id)) is Rejection.NOT_A_TOKEN


def test_a_token_without_key_id_means_the_only_key() -> None:
    assert isinstance(_verdict(_token(kid=None), KEY), Token)
    assert _verdict(_token(kid=None), KEY, signing_key("EdDSA", "k2")) is Rejection.UNKNOWN_KEY


# -- form


@pytest.mark.parametrize(
    "text", [b"", b".", b"..", b"...", b"a", b"a.b", b"a.b.c", b"a.b.c.d", b"sk_live_" + b"a" * 38]
)
def test_what_has_no_three_parts_is_no_token(text: bytes) -> None:
    assert read(text) is Rejection.NOT_A_TOKEN


def test_a_token_is_read_in_one_spelling_only() -> None:
    token = _token()
    header, claims, signature = token.split(b".")
    for other in (
        token + b"=",
        token + b"\n",
        b" " + token,
        header + b"=." + claims + b"." + signature,
        header + b".\r\n" + claims + b"." + signature,
        token + b".",
        token + b".e30",
        header + b".." + signature,
        header + b"." + claims + b".",
        b"." + claims + b"." + signature,
        token.replace(b".", b"%2E"),
        token.decode().encode("utf-16"),
        header + b"." + claims + b"." + signature[:-1] + (b"+" if signature[-1:] != b"+" else b"/"),
    ):
        assert read(other) is Rejection.NOT_A_TOKEN, other


def test_stray_bits_at_the_end_of_a_part_are_refused() -> None:
    """A 64-byte signature has 86 characters, the last of which carries only two bits: 15 other spellings of it."""
    token = _token()
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    accepted = [last for last in alphabet if not isinstance(_verdict(token[:-1] + bytes((last,)), KEY), Rejection)]
    assert accepted == [token[-1]]


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"ES256","alg":"none","kid":"k1"}',
        b'{"alg":"none","alg":"ES256","kid":"k1"}',
        b'{"alg":"ES256","kid":"k1","x":{"a":1,"a":2}}',
        b'{"alg":"ES256","\\u0061lg":"none","kid":"k1"}',
        b'["alg","ES256"]',
        b'"ES256"',
        b"null",
        b'{"alg":"ES256","kid":"k1"}x',
        b'{"alg":"ES256","kid":"k1",}',
        b'{"alg":null,"kid":"k1"}',
        b'{"alg":["ES256"],"kid":"k1"}',
        b'{"kid":"k1"}',
        b'{"alg":"ES256","kid":"k1","typ":7}',
        b'\xef\xbb\xbf{"alg":"ES256","kid":"k1"}',
        b'{"alg":"ES256","kid":"\xff"}',
        '{"alg":"ES256","kid":"k1"}'.encode("utf-16"),
        b'{"alg":"ES256","kid":"k1","n":NaN}',
        b'{"alg":"ES256","kid":"k1","n":' + b"1" * 5000 + b"}",
    ],
)
def test_a_header_that_could_be_read_in_two_ways_is_no_header(header: bytes) -> None:
    assert read(KEY.raw_token(header, as_json(CLAIMS))) is Rejection.NOT_A_TOKEN


@pytest.mark.parametrize(
    "claims",
    [
        b'{"iss":"%b","sub":"ada","sub":"bob","exp":1}' % ISS.encode(),
        b'{"iss":"%b","meta":{"plan":"free","plan":"pro"},"exp":1}' % ISS.encode(),
        b'{"iss":"%b","exp":Infinity}' % ISS.encode(),
        b'{"iss":"%b","exp":-Infinity}' % ISS.encode(),
        b"[]",
        b'"nested"',
        _token(),
        b"",
        b"{",
        b"[" * 4000,
        b"[" * 2900 + b"]" * 2900,
    ],
    ids=range(11),
)
def test_claims_that_could_be_read_in_two_ways_are_no_claims(claims: bytes) -> None:
    assert read(KEY.raw_token(as_json({"alg": "ES256", "kid": "k1"}), claims)) is Rejection.NOT_A_TOKEN


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": None, "b64": False},
        {"b64": True},
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": "secevent+jwt"},
        {"typ": "JOSE"},
    ],
)
def test_what_must_be_understood_and_is_not_is_refused(header: dict[str, Any]) -> None:
    assert read(_token(**header)) is Rejection.NOT_SUPPORTED


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_access_and_identity_tokens_are_taken(kind: str | None) -> None:
    assert isinstance(_verdict(_token(typ=kind), KEY), Token)


def test_a_token_of_8_kib_is_read_and_a_longer_one_is_not() -> None:
    size = len(KEY.token({**CLAIMS, "pad": ""}))
    room = (MAX_TOKEN_BYTES - size) // 4 * 3
    token = KEY.token({**CLAIMS, "pad": "x" * room})
    assert MAX_TOKEN_BYTES - 4 < len(token) <= MAX_TOKEN_BYTES
    assert isinstance(_verdict(token, KEY), Token)
    assert read(KEY.token({**CLAIMS, "pad": "x" * (room + 4)})) is Rejection.TOO_LONG


@pytest.mark.parametrize("iss", [None, 7, ["https://issuer.test/"]])
def test_a_token_says_who_issued_it(iss: Any) -> None:
    assert read(KEY.token({**CLAIMS, "iss": iss})) is Rejection.UNKNOWN_ISSUER


# -- claims


def _checked(claims: dict[str, Any], now: float = NOW, **spec: Any) -> float | Rejection:
    wanted = IssuerSpec.model_validate({"name": "i", "issuer": ISS, "jwks_url": "https://issuer.test/k", **spec})
    return check_claims({n: v for n, v in {**CLAIMS, **claims}.items() if v is not None}, wanted, now)


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (NOW, NOW + 60),
        (NOW + 59.999, NOW + 60),
        (NOW + 60, NOW + 60),  # the leeway begins
        (NOW + 89.999, NOW + 60),
        (NOW + 90, Rejection.EXPIRED),
        (NOW + 1e6, Rejection.EXPIRED),
    ],
)
def test_a_token_is_good_until_its_expiry_and_the_leeway(now: float, verdict: Any) -> None:
    assert _checked({}, now) == verdict


def test_without_leeway_a_token_is_not_good_at_its_expiry() -> None:
    assert _checked({}, NOW + 59.999, leeway_s=0) == NOW + 60
    assert _checked({}, NOW + 60, leeway_s=0) is Rejection.EXPIRED


def test_a_token_must_say_when_it_expires() -> None:
    assert _checked({"exp": None}) is Rejection.NO_EXPIRY


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("date", ["1800000060", True, [NOW], {}, -1, 2**53 + 1, 10**400, float("inf"), float("nan")])
def test_a_date_is_a_number_of_seconds(name: str, date: Any) -> None:
    assert _checked({name: date}) is Rejection.NOT_A_TOKEN


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_is_not_good_before_it_begins_but_for_the_leeway(name: str) -> None:
    assert _checked({name: NOW + 30}) == NOW + 60
    assert _checked({name: NOW + 30.001}) is Rejection.NOT_YET
    assert _checked({name: NOW + 0.001}, leeway_s=0) is Rejection.NOT_YET
    assert _checked({name: NOW}, leeway_s=0) == NOW + 60
    assert _checked({name: NOW - 1e8}) == NOW + 60


@pytest.mark.parametrize("iss", ["https://issuer.test", "https://ISSUER.test/", "https://issuer.test//", "", None])
def test_the_issuer_is_compared_to_the_letter(iss: str | None) -> None:
    assert _checked({"iss": iss}) is Rejection.UNKNOWN_ISSUER


@pytest.mark.parametrize("audience", ["api", ["api"], ["other", "api"], ["other", 7, None, "web"]])
def test_one_audience_that_is_meant_is_enough(audience: Any) -> None:
    assert _checked({"aud": audience}, audiences=["api", "web"]) == NOW + 60


@pytest.mark.parametrize("audience", [None, "", "API", "api ", [], [["api"]], {"api": 1}, 7, "other", ["other"]])
def test_a_token_for_others_is_refused(audience: Any) -> None:
    assert _checked({"aud": audience}, audiences=["api", "web"]) is Rejection.WRONG_AUDIENCE


def test_where_no_audience_is_declared_none_is_looked_at() -> None:
    assert _checked({"aud": "whoever"}) == NOW + 60


def test_no_rejection_could_break_the_header_it_is_put_into() -> None:
    for rejection in Rejection:
        assert rejection.value.isascii()
        assert rejection.value.isprintable()
        assert '"' not in rejection.value
        assert "\\" not in rejection.value
