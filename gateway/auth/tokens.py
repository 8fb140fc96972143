"""Whose token is this: read it, find its issuer and key, verify it, and remember the verdict.

A verified token is remembered by its SHA-256 until it expires, its issuer changes or its issuer withdraws a key, so a
token that is seen again costs a hash and a look-up. One that was refused is remembered for a few seconds, so that a client
that keeps sending it does not cost a signature check each time. Which issuer: the one that the token's `iss` names in the
project of the route; for the gateway's own endpoints, which belong to no project, the only one of that name.

Bounds: 50,000 verified and 10,000 refused tokens, the least recently used give way; key sets as many as issuers that were
asked for in the last 24 h. No token and no claim is ever logged. How it fails: a `Rejection`, never an exception.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from gateway.auth.claims import Identity, Paths, identity_of, paths_of
from gateway.auth.jwks import Fetcher, KeySource
from gateway.auth.jwt import MAX_TOKEN_BYTES, Rejection, Token, check_claims, read

if TYPE_CHECKING:
    from gateway.auth.keyset import VerifyingKey
    from gateway.store.nouns import Issuer
    from gateway.store.snapshot import Snapshot

MAX_VERIFIED: Final = 50_000
MAX_REFUSED: Final = 10_000
REFUSED_FOR_S: Final = 10.0
_UNASKED_S: Final = 86_400.0
_NOT_REMEMBERED: Final = frozenset((Rejection.UNKNOWN_KEY, Rejection.NOT_YET, Rejection.KEYS_UNAVAILABLE))
"""What may be different the next moment."""

_Place = tuple[str | None, bytes]
"""Where a token was used (a project, or None), and its SHA-256."""


@dataclass(slots=True, eq=False)
class Verified:
    """A good token. `expires_at` is its `exp`, in Unix seconds; `version` that of its issuer's keys when it was verified."""

    issuer: Issuer
    identity: Identity
    expires_at: float
    keys: KeySource
    version: int


@dataclass(slots=True, eq=False)
class _Known:
    """What is held about an issuer."""

    issuer: Issuer
    paths: Paths
    keys: KeySource
    asked_at: float


class Tokens:
    """The tokens of a worker process. `fetcher` gets key sets and is closed here, `clock` gives monotonic seconds."""

    def __init__(
        self,
        snapshot: Snapshot,
        fetcher: Fetcher,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_verified: int = MAX_VERIFIED,
        max_refused: int = MAX_REFUSED,
    ) -> None:
        self._snapshot = snapshot
        self._fetcher = fetcher
        self._clock = clock
        self._max_verified, self._max_refused = max_verified, max_refused
        self._verified: OrderedDict[_Place, Verified] = OrderedDict()
        self._refused: OrderedDict[_Place, tuple[Rejection, int, float]] = OrderedDict()
        self._issuers: dict[str, _Known] = {}
        self._fetches: set[asyncio.Task[None]] = set()
        self.verifications = 0
        """Signatures checked."""
        self.fetch_failures = 0

    # -- what requests ask

    async def check(self, project_id: str | None, text: bytes, now: float) -> Verified | Rejection:
        """Whose token `text` is; `now` is Unix seconds. Waits only for keys that are not here. Need not be in a task."""
        if len(text) > MAX_TOKEN_BYTES:
            return Rejection.TOO_LONG
        place = (project_id, sha256(text).digest())
        verified = self._verified.get(place)
        if verified is not None:
            if verified.expires_at > now and self._still_holds(project_id, verified):
                self._verified.move_to_end(place)
                return verified
            del self._verified[place]
        refused = self._refused.get(place)
        if refused is not None:
            rejection, generation, until = refused
            if generation == self._snapshot.generation and until > self._clock():
                return rejection
            del self._refused[place]
        return self._remember(place, await self._verify(project_id, text, now), now)

    def _still_holds(self, project_id: str | None, verified: Verified) -> bool:
        issuer = verified.issuer
        return (
            self._snapshot.issuers.of(project_id, issuer.spec.issuer) is issuer
            and verified.version == verified.keys.version
        )

    def _remember(self, place: _Place, verdict: Verified | Rejection, now: float) -> Verified | Rejection:
        if isinstance(verdict, Verified):
            if verdict.expires_at > now:  # not within its leeway
                self._verified[place] = verdict
                if len(self._verified) > self._max_verified:
                    self._verified.popitem(last=False)
        elif verdict not in _NOT_REMEMBERED:
            self._refused[place] = (verdict, self._snapshot.generation, self._clock() + REFUSED_FOR_S)
            if len(self._refused) > self._max_refused:
                self._refused.popitem(last=False)
        return verdict

    async def _verify(self, project_id: str | None, text: bytes, now: float) -> Verified | Rejection:
        token = read(text)
        if isinstance(token, Rejection):
            return token
        issuer = self._snapshot.issuers.of(project_id, token.issuer)
        if issuer is None:
            return Rejection.UNKNOWN_ISSUER if self._snapshot.is_loaded else Rejection.KEYS_UNAVAILABLE
        if token.algorithm not in issuer.spec.algorithms:
            return Rejection.NOT_SUPPORTED
        known = self._known(issuer)
        known.asked_at = self._clock()
        key = await _key_of(known.keys, token)
        if isinstance(key, Rejection):
            return key
        if self._snapshot.issuers.of(project_id, token.issuer) is not issuer:
            return (
                Rejection.KEYS_UNAVAILABLE
            )  # it changed while the keys were on their way: the next try is judged anew
        self.verifications += 1
        if not key.has_signed(token.signed, token.signature, token.algorithm):
            return Rejection.BAD_SIGNATURE
        expires_at = check_claims(token.claims, issuer.spec, now)
        if isinstance(expires_at, Rejection):
            return expires_at
        identity = identity_of(token.claims, known.paths)
        if identity is None:
            return Rejection.NO_CUSTOMER
        return Verified(issuer, identity, expires_at, known.keys, known.keys.version)

    def _known(self, issuer: Issuer) -> _Known:
        """What is held about an issuer; its keys outlive a change of anything but where they are."""
        held = self._issuers.get(issuer.id)
        if held is not None and held.issuer is issuer:
            return held
        if held is not None and held.keys.url == issuer.spec.jwks_url:
            keys = held.keys
        else:
            keys = KeySource(
                f"issuer {issuer.spec.name} ({issuer.id})",
                issuer.spec.jwks_url,
                self._fetcher.fetch,
                self._clock,
                self._fetches,
                on_loss=self._snapshot.renew,
                on_failure=self._count_failure,
            )
        held = self._issuers[issuer.id] = _Known(issuer, paths_of(issuer.spec.claims), keys, self._clock())
        return held

    def _count_failure(self) -> None:
        self.fetch_failures += 1

    # -- what happens on the clock

    @property
    def remembered(self) -> int:
        """Verified tokens in memory."""
        return len(self._verified)

    @property
    def stale_issuers(self) -> int:
        """Issuers that are away and whose last keys are in use beyond their freshness."""
        return sum(1 for known in self._issuers.values() if known.keys.is_stale)

    def sweep(self) -> None:
        """Once a second: fetch what is due, let go of issuers that are gone or that nobody asked for lately."""
        long_ago = self._clock() - _UNASKED_S
        for issuer_id, known in tuple(self._issuers.items()):
            issuer = self._snapshot.issuers.by_id.get(issuer_id)
            if issuer is None or known.asked_at < long_ago:
                del self._issuers[issuer_id]
            elif self._known(issuer).keys.is_due:
                self._known(issuer).keys.refresh()

    async def close(self) -> None:
        """Break off fetches. No request may be open any more."""
        for fetch in self._fetches:
            fetch.cancel()
        await asyncio.gather(*self._fetches, return_exceptions=True)
        await self._fetcher.close()


async def _key_of(keys: KeySource, token: Token) -> VerifyingKey | Rejection:
    """The key a token is signed with, fetched if need be."""
    if not keys.is_usable:
        if keys.may_try:
            await keys.refreshed()
        if not keys.is_usable:
            return Rejection.KEYS_UNAVAILABLE
    key = keys.find(token.key_id, token.algorithm)
    if key is None and token.key_id is not None and keys.may_look_again:
        await keys.refreshed()
        key = keys.find(token.key_id, token.algorithm)
    if key is None:
        return Rejection.KEYS_UNAVAILABLE if keys.is_away else Rejection.UNKNOWN_KEY
    return key
