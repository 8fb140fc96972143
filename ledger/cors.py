"""Which pages of other origins may call a route from a browser (CORS, the Fetch standard §3.2)."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from ledger.spec_types import HeaderName, Method, Origin, Spec

ANY: Final = "*"


class CorsSpec(Spec):
    """The gateway answers a browser's preflight itself, without a credential, and nothing is counted for it."""

    allowed_origins: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=256)]
    """As those of a key: https://app.example.com, *.example.com, or * for any."""
    allowed_methods: Annotated[tuple[Method, ...], Field(max_length=32)] = ()
    """Without any: those of the route."""
    allowed_headers: Annotated[tuple[HeaderName | Literal["*"], ...], Field(max_length=128)] = (
        "Authorization",
        "Content-Type",
        "X-API-Key",
    )
    exposed_headers: Annotated[tuple[HeaderName, ...], Field(max_length=128)] = (
        "RateLimit",
        "RateLimit-Policy",
        "Retry-After",
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
        "X-Request-Id",
    )
    """What a page may read of an answer, beside what it always may."""
    allow_credentials: bool = False
    """Whether browsers send cookies along; origins must then be named."""
    max_age_s: int = Field(default=600, ge=0, le=86_400)
    """How long a browser remembers the answer to a preflight."""

    @model_validator(mode="after")
    def _credentials_need_names(self) -> Self:
        if self.allow_credentials and ANY in self.allowed_origins:
            raise ValueError("allow_credentials needs origins by name: with '*' every page could act for its visitor")
        return self
