"""Tokens over time: verified once, remembered within bounds, forgotten when what they rest on is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.auth.jwks import Fetched, Fetcher, Unreachable
from gateway.auth.jwt import MAX_TOKEN_BYTES, Rejection
from gateway.auth.tokens import REFUSED_FOR_S, Tokens, Verified
from gateway.store.issuers import IssuerTable
from gateway.store.nouns import Issuer
from gateway.store.snapshot import Snapshot
from ledger.specs import IssuerSpec
from tests.support.issuer import SigningKey, key_set, signing_key

ISS, URL = "https://issuer.test/", "https://issuer.test/keys"
KEY, NEXT = signing_key("ES256", "k1"), signing_key("ES256", "k2", number=1)
NOW = 1_800_000_000.0


class Web(Fetcher):
    """What is published where."""

    def __init__(self) -> None:
        super().__init__()
        self.published: dict[str, tuple[SigningKey, ...] | None] = {URL: (KEY,)}
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def fetch(self, url: str) -> Fetched:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        keys = self.published[url]
        if keys is None:
            raise Unreachable("answered with status 500")
        return Fetched(key_set(*keys), 1000.0)


class World:
    """Tokens over a snapshot that the test writes, a web it publishes on, and a clock it sets."""

    def __init__(self, **bounds: int) -> None:
        self.snapshot = Snapshot("postgresql://nowhere", deadline=1, poll_interval=1, max_keys=10)
        self.snapshot.is_loaded = True
        self.web = Web()
        self.monotonic = 1000.0
        self.tokens = Tokens(self.snapshot, self.web, clock=lambda: self.monotonic, **bounds)
        self.declare(issuer())

    def declare(self, *issuers: Issuer) -> None:
        """What a change of issuers does to the snapshot."""
        self.snapshot.issuers = IssuerTable(issuers)
        self.snapshot.generation += 1

    async def check(self, token: bytes, now: float = NOW, project: str | None = "prj_a") -> Verified | Rejection:
        return await self.tokens.check(project, token, now)

    async def sweep(self) -> None:
        self.tokens.sweep()
        await asyncio.gather(*self.tokens._fetches)


def issuer(issuer_id: str = "iss_1", project: str = "prj_a", **spec: Any) -> Issuer:
    fields = {"name": "idp", "issuer": ISS, "jwks_url": URL, **spec}
    return Issuer(issuer_id, project, IssuerSpec.model_validate(fields))


def token(user: str = "ada", key: SigningKey = KEY, exp: float = NOW + 600, **claims: Any) -> bytes:
    return key.token({"iss": ISS, "sub": user, "exp": exp, "iat": None, **claims})


async def test_a_token_is_verified_once() -> None:
    world = World()
    text = token()
    first = await world.check(text)
    assert isinstance(first, Verified)
    assert first.identity.external_id == "ada"
    assert first.expires_at == NOW + 600
    for _ in range(10):
        assert await world.check(text) is first
    assert world.tokens.verifications == 1
    assert world.web.asked == 1


async def test_a_remembered_token_expires() -> None:
    world = World()
    text = token()
    await world.check(text)
    assert isinstance(await world.check(text, NOW + 599.9), Verified)
    assert world.tokens.verifications == 1
    assert isinstance(await world.check(text, NOW + 600), Verified), "within the leeway, but not from memory"
    assert world.tokens.verifications == 2
    assert world.tokens.remembered == 0
    assert await world.check(text, NOW + 630) is Rejection.EXPIRED


async def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    world = World(max_verified=3)
    a, b, c, d = (token(user) for user in "abcd")
    for text in (a, b, c, a, d):
        await world.check(text)
    assert world.tokens.remembered == 3
    assert world.tokens.verifications == 4
    await world.check(a)
    assert world.tokens.verifications == 4, "a was used after b"
    await world.check(b)
    assert world.tokens.verifications == 5, "b gave way"


async def test_a_refused_token_is_not_verified_again_and_again() -> None:
    world = World()
    text = token(key=signing_key("ES256", "k1", number=1))
    for _ in range(10):
        assert await world.check(text) is Rejection.BAD_SIGNATURE
    assert world.tokens.verifications == 1
    world.monotonic += REFUSED_FOR_S
    await world.check(text)
    assert world.tokens.verifications == 2


async def test_memory_of_refused_tokens_is_bounded_and_apart() -> None:
    world = World(max_refused=2)
    good = token()
    await world.check(good)
    for n in range(20):
        assert await world.check(token(str(n), exp=NOW - 100)) is Rejection.EXPIRED
    assert len(world.tokens._refused) == 2
    checked = world.tokens.verifications
    assert isinstance(await world.check(good), Verified)
    assert world.tokens.verifications == checked


async def test_a_token_that_is_too_long_is_not_even_hashed() -> None:
    world = World()
    assert await world.check(b"a" * (MAX_TOKEN_BYTES + 1)) is Rejection.TOO_LONG
    assert not world.tokens._refused


async def test_a_token_that_is_early_is_good_in_time() -> None:
    world = World()
    text = token(nbf=NOW + 100)
    assert await world.check(text) is Rejection.NOT_YET
    assert isinstance(await world.check(text, NOW + 70), Verified)


async def test_a_removed_issuer_takes_its_tokens_with_it() -> None:
    world = World()
    text = token()
    await world.check(text)
    world.declare()
    assert await world.check(text) is Rejection.UNKNOWN_ISSUER
    world.declare(issuer())
    assert isinstance(await world.check(text), Verified), "the refusal does not outlive the change either"


async def test_a_changed_issuer_has_its_tokens_judged_anew_with_the_keys_it_had() -> None:
    world = World()
    text = token()
    await world.check(text)
    world.web.published[URL] = None
    world.declare(issuer(audiences=["api"]))
    assert await world.check(text) is Rejection.WRONG_AUDIENCE
    world.declare(issuer(claims={"customer": "email"}))
    assert await world.check(text) is Rejection.NO_CUSTOMER
    world.declare(issuer(algorithms=["RS256"]))
    assert await world.check(text) is Rejection.NOT_SUPPORTED
    assert world.web.asked == 1


async def test_an_issuer_that_moves_is_asked_at_its_new_place() -> None:
    world = World()
    await world.check(token())
    world.web.published["https://issuer.test/new"] = (NEXT,)
    world.declare(issuer(jwks_url="https://issuer.test/new"))
    assert await world.check(token()) is Rejection.UNKNOWN_KEY
    assert isinstance(await world.check(token(key=NEXT)), Verified)


async def test_a_withdrawn_key_takes_its_tokens_with_it() -> None:
    world = World()
    text = token()
    await world.check(text)
    generation = world.snapshot.generation
    world.web.published[URL] = (NEXT,)
    world.monotonic += 800
    await world.sweep()
    assert world.snapshot.generation > generation, "what connections remember is looked at again"
    assert await world.check(text) is Rejection.UNKNOWN_KEY


async def test_a_key_that_is_new_is_looked_for_at_once() -> None:
    world = World()
    await world.check(token())
    world.monotonic += 30
    world.web.published[URL] = (KEY, NEXT)
    assert isinstance(await world.check(token(key=NEXT)), Verified)
    assert world.web.asked == 2


async def test_a_flood_of_made_up_keys_makes_one_fetch_in_30_seconds() -> None:
    world = World()
    await world.check(token())
    for second in range(120):
        world.monotonic += 1
        for n in range(20):
            made_up = token(f"{second}-{n}", key=signing_key("ES256", f"made-up-{second}-{n}"))
            assert await world.check(made_up) is Rejection.UNKNOWN_KEY
    assert world.web.asked == 1 + 4
    assert world.tokens.verifications == 1
    assert len(world.tokens._refused) == 0


async def test_a_flood_at_once_waits_for_one_fetch() -> None:
    world = World()
    world.web.gate = asyncio.Event()
    flood = [token(str(n), key=signing_key("ES256", f"made-up-{n}")) for n in range(50)]
    waiting = [asyncio.ensure_future(world.check(text)) for text in (*flood, token())]
    await asyncio.sleep(0)
    world.web.gate.set()
    *refused, good = await asyncio.gather(*waiting)
    assert set(refused) == {Rejection.UNKNOWN_KEY}
    assert isinstance(good, Verified)
    assert world.web.asked == 1


async def test_a_token_without_key_id_causes_no_look_for_another_key() -> None:
    world = World()
    world.web.published[URL] = (KEY, NEXT)
    await world.check(token())
    world.monotonic += 100
    assert await world.check(KEY.token({"iss": ISS, "exp": NOW + 9}, kid=None)) is Rejection.UNKNOWN_KEY
    assert world.web.asked == 1


async def test_an_issuer_that_was_never_reached_is_not_the_token_s_fault() -> None:
    world = World()
    world.web.published[URL] = None
    text = token()
    for _ in range(10):
        assert await world.check(text) is Rejection.KEYS_UNAVAILABLE
    assert world.web.asked == 1
    assert world.tokens.fetch_failures == 1
    world.web.published[URL] = (KEY,)
    world.monotonic += 1
    assert isinstance(await world.check(text), Verified)


async def test_while_an_issuer_is_away_known_keys_go_on_and_unknown_ones_are_not_judged() -> None:
    world = World()
    await world.check(token())
    world.web.published[URL] = None
    world.monotonic += 2000
    await world.sweep()
    assert world.tokens.stale_issuers == 1
    assert isinstance(await world.check(token("bob")), Verified)
    assert await world.check(token(key=NEXT)) is Rejection.KEYS_UNAVAILABLE


async def test_before_the_snapshot_is_there_no_issuer_is_unknown() -> None:
    world = World()
    world.declare()
    world.snapshot.is_loaded = False
    assert await world.check(token()) is Rejection.KEYS_UNAVAILABLE
    world.snapshot.is_loaded = True
    assert await world.check(token()) is Rejection.UNKNOWN_ISSUER


async def test_an_issuer_serves_its_project_alone() -> None:
    world = World()
    text = token()
    assert isinstance(await world.check(text), Verified)
    assert await world.check(text, project="prj_b") is Rejection.UNKNOWN_ISSUER
    world.web.published["https://b.test/keys"] = (NEXT,)
    world.declare(issuer(), issuer("iss_2", "prj_b", jwks_url="https://b.test/keys"))
    theirs = token(key=NEXT)
    verified = await world.check(theirs, project="prj_b")
    assert isinstance(verified, Verified)
    assert verified.issuer.project_id == "prj_b"
    assert isinstance(await world.check(theirs), Rejection), "another project's keys of the same iss"


async def test_outside_any_project_an_issuer_must_be_the_only_one_of_its_name() -> None:
    world = World()
    text = token()
    verified = await world.check(text, project=None)
    assert isinstance(verified, Verified)
    assert verified.issuer.project_id == "prj_a"
    world.declare(issuer(), issuer("iss_2", "prj_b"))
    assert await world.check(text, project=None) is Rejection.UNKNOWN_ISSUER
    assert isinstance(await world.check(text), Verified)


async def test_an_issuer_that_changes_while_its_keys_are_fetched_is_not_believed() -> None:
    world = World()
    world.web.gate = asyncio.Event()
    waiting = asyncio.ensure_future(world.check(token()))
    await asyncio.sleep(0)
    world.declare()
    world.web.gate.set()
    assert await waiting is Rejection.KEYS_UNAVAILABLE
    assert await world.check(token()) is Rejection.UNKNOWN_ISSUER


async def test_issuers_that_are_gone_or_unasked_are_let_go() -> None:
    world = World()
    await world.check(token())
    assert world.tokens._issuers
    world.declare()
    world.tokens.sweep()
    assert not world.tokens._issuers
    world.declare(issuer())
    await world.check(token())
    world.monotonic += 86_401
    world.tokens.sweep()
    assert not world.tokens._issuers


async def test_closing_breaks_off_what_is_on_its_way() -> None:
    world = World()
    world.web.gate = asyncio.Event()
    waiting = asyncio.ensure_future(world.check(token()))
    await asyncio.sleep(0)
    await world.tokens.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not world.tokens._fetches
