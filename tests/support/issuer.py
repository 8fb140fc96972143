"""Who signs tokens, in tests: keys of every type, tokens as they should and should not be, and a server of key sets.

key = signing_key("RS256", "k1")
async with KeySetServer(key) as server:
    token = key.token({"iss": server.issuer, "sub": "ada"})
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import asyncpg
import jwt
import orjson
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ledger import ids
from ledger.specs import IssuerSpec

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")


def segment(data: bytes) -> bytes:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def as_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class SigningKey:
    """A private key with an id."""

    def __init__(self, algorithm: str, key_id: str | None, private: Any) -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.private = private
        self._implementation = jwt.algorithms.get_default_algorithms()[algorithm]

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public JWK; a member that is None is left out."""
        found = {
            **self._implementation.to_jwk(self.private.public_key(), as_dict=True),
            "kid": self.key_id,
            "use": "sig",
            **members,
        }
        found.pop("key_ops", None) if "key_ops" not in members else None
        return {name: value for name, value in found.items() if value is not None}

    def sign(self, message: bytes) -> bytes:
        return bytes(self._implementation.sign(message, self.private))

    def raw_token(self, header: bytes, claims: bytes) -> bytes:
        """A token of exactly this header and these claims, properly signed."""
        message = segment(header) + b"." + segment(claims)
        return message + b"." + segment(self.sign(message))

    def token(self, claims: dict[str, Any] | None = None, **header: Any) -> bytes:
        """A token that is good for an hour unless the claims say otherwise; what is None is left out."""
        now = int(time.time())
        claims = {"sub": "ada", "exp": now + 3600, "iat": now, **(claims or {})}
        header = {"alg": self.algorithm, "typ": "JWT", "kid": self.key_id, **header}
        return self.raw_token(
            as_json({n: v for n, v in header.items() if v is not None}),
            as_json({n: v for n, v in claims.items() if v is not None}),
        )


@cache
def _private(kind: str, number: int) -> Any:
    """Making an RSA key takes up to a second: each is made once per test process."""
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "ES384":
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, 2048)


def signing_key(algorithm: str = "ES256", key_id: str | None = "k1", number: int = 0) -> SigningKey:
    """A key for an algorithm. The same arguments mean the same key; `number` makes others."""
    kind = "RSA" if algorithm[0] in "RP" else algorithm
    return SigningKey(algorithm, key_id, _private(kind, number))


def key_set(*keys: SigningKey | dict[str, Any]) -> bytes:
    """A JWK set of public keys, or of JWKs as they are."""
    return orjson.dumps({"keys": [key if isinstance(key, dict) else key.jwk() for key in keys]})


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KeySetServer:
    """Serves the public keys of `keys` at `url`, or whatever `answer` says. `asked` counts requests."""

    def __init__(self, *keys: SigningKey, issuer: str = "https://issuer.test/") -> None:
        self.keys: list[SigningKey | dict[str, Any]] = list(keys)
        self.issuer = issuer
        self.headers: dict[str, str] = {}
        self.answer: Answer | None = None
        self.asked = 0

    async def __aenter__(self) -> KeySetServer:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/jwks.json"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def stop(self) -> None:
        """Go away: connections are refused from now on."""
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.answer is not None:
            return await self.answer(request)
        return web.Response(body=key_set(*self.keys), content_type="application/json", headers=self.headers)

    def spec(self, **fields: Any) -> IssuerSpec:
        """An issuer whose keys are here."""
        return IssuerSpec.model_validate({"name": "idp", "issuer": self.issuer, "jwks_url": self.url, **fields})


async def declare(pg: asyncpg.Connection, project: str, spec: IssuerSpec) -> str:
    """The row of an issuer; its id."""
    issuer_id = ids.new_id("issuer")
    await pg.execute(
        "INSERT INTO issuers (id, project_id, name, issuer, spec) VALUES ($1, $2, $3, $4, $5)",
        issuer_id, project, spec.name, spec.issuer, spec.model_dump_json(),
    )  # fmt: skip
    return issuer_id
