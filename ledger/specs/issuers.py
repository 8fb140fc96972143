"""Who signs the tokens that a project's routes take, and where in them to look."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ledger.keys import Mode
from ledger.spec_types import Spec
from ledger.specs.text import ClaimPath, IssuerText, KeySetUrl, Name


class SigningAlgorithm(StrEnum):
    """How a token may be signed. All asymmetric: the gateway holds nothing that could make a token."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    ES256 = "ES256"
    ES384 = "ES384"
    EDDSA = "EdDSA"


class ClaimsSpec(Spec):
    """Where in a token's claims to look; what is None is not looked for."""

    customer: ClaimPath = "sub"
    """The end user: the external id of a customer, who need not exist yet."""
    tier: ClaimPath | None = None
    """The name of the tier the end user is served under; where the token has none, the tier on record."""
    scopes: ClaimPath | None = "scope"
    """The token's scopes: text with spaces between, or a list."""


class IssuerSpec(Spec):
    """Who signs tokens that routes with `auth: jwt` take: an identity provider, known by its public keys."""

    name: Name
    issuer: IssuerText
    """The `iss` of its tokens, to the letter."""
    jwks_url: KeySetUrl
    """Where its public keys are (RFC 7517)."""
    audiences: Annotated[tuple[IssuerText, ...], Field(max_length=32)] = ()
    """A token must be for one of these (`aud`); without any, its audience is not looked at."""
    leeway_s: int = Field(default=30, ge=0, le=300)
    """How far its clock and ours may be apart."""
    algorithms: Annotated[tuple[SigningAlgorithm, ...], Field(min_length=1, max_length=7)] = tuple(SigningAlgorithm)
    claims: ClaimsSpec = ClaimsSpec()
    mode: Mode = Mode.LIVE
    """The half of the project its users belong to."""
