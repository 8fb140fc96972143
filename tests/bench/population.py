"""Who makes the requests: customers with a key each, one customer whose minute limit is small, keys nobody issued, and
users of an identity provider with a token each.

The same population is given to every peer that knows keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.keys import KeyKind, Mode, NewKey, generate
from tests.support.issuer import SigningKey, signing_key

PER_MINUTE: Final = 100_000_000
QUOTA: Final = 1_000_000_000
"""Limits that are checked and never reached."""
TIGHT_PER_MINUTE: Final = 100
_UNKNOWN: Final = 1_000
_BEARERS: Final = 100
ISSUER: Final = "https://issuer.bench/"


@dataclass(frozen=True, slots=True)
class Population:
    """`keys[i]` belongs to customer `customer(i)`; the last of them is the one that soon reaches its limit."""

    keys: tuple[NewKey, ...]
    unknown: tuple[NewKey, ...]
    signer: SigningKey
    tokens: tuple[str, ...]

    @property
    def roomy(self) -> tuple[NewKey, ...]:
        """Keys that are never refused."""
        return self.keys[:-1]

    @property
    def tight(self) -> NewKey:
        return self.keys[-1]

    @staticmethod
    def customer(index: int) -> str:
        """The customer's id."""
        return f"cus_bench{index:06d}"

    def is_tight(self, index: int) -> bool:
        """True for the customer with the small limit."""
        return index == len(self.keys) - 1


def make_population(size: int) -> Population:
    """`size` customers that are never refused, and the one that is."""
    keys = tuple(generate(KeyKind.CUSTOMER, Mode.TEST) for _ in range(size + 1))
    unknown = tuple(generate(KeyKind.CUSTOMER, Mode.TEST) for _ in range(_UNKNOWN))
    signer = signing_key("RS256", "bench")
    claims = ({"iss": ISSUER, "sub": f"user{number}"} for number in range(_BEARERS))
    return Population(keys, unknown, signer, tuple(signer.token(claim).decode() for claim in claims))
