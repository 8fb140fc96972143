"""An issuer's published keys (JWKS): fetched when first needed, kept fresh in the background, used on while it is away.

A `KeySource` holds the keys of one issuer. The answer's Cache-Control says how long they are fresh, within 5 minutes to
24 hours; after four fifths of that they are fetched again in the background. A key that the issuer no longer publishes is
gone with the next fetch.

A token may name a key that is not there, because the issuer has begun to use a new one or because somebody made it up. It
may cause a fetch, but only if none has begun in the last 30 s: any number of made-up tokens costs one fetch per 30 s. All
who wait for a fetch wait for the same one.

How it fails: while the issuer cannot be asked its last keys stay in use, for 24 h beyond their freshness, and it is tried
again after 1 s, doubling to 60 s; one line in the log says that it went away and one that it is back. Then, or where no
keys were ever had, tokens of the issuer cannot be checked (503). Bounds: 5 s for a fetch, 2 s to connect, 256 KiB, 3
redirects, none of which may leave the host; 64 keys.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp

from gateway.auth.keyset import BadKeySet, KeySet, VerifyingKey, parse_key_set
from ledger.dependency import Dependency

_log = logging.getLogger("gateway.jwks")

MAX_DOCUMENT_BYTES: Final = 262_144
MAX_REDIRECTS: Final = 3
FRESH_S: Final = (300.0, 86_400.0)
FRESH_UNLESS_SAID_S: Final = 3_600.0
STALE_S: Final = 86_400.0
UNKNOWN_KEY_S: Final = 30.0
RETRY_S: Final = (1.0, 60.0)
_REFRESH_AT: Final = 0.8
_TIMEOUT_S: Final = 5.0
_CONNECT_S: Final = 2.0
_CONNECTIONS: Final = 64
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tollgate"}
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_max_age: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?([0-9]{1,10})", re.IGNORECASE).search
_no_keeping: Final = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,=])", re.IGNORECASE).search


class Unreachable(Exception):
    """The issuer's keys could not be fetched. The message says why, without what was sent or received."""


class Fetched(NamedTuple):
    """A document, and how long it may be kept."""

    document: bytes
    fresh_s: float


Fetch = Callable[[str], Awaitable[Fetched]]


def fresh_for_s(cache_control: str | None, age: str | None) -> float:
    """How long an answer is fresh by its Cache-Control and Age (RFC 9111 §4.2), within bounds."""
    least, most = FRESH_S
    said = FRESH_UNLESS_SAID_S
    if cache_control is not None:
        found = _max_age(cache_control)
        if _no_keeping(cache_control):
            said = 0.0
        elif found is not None:
            said = float(found[1]) - (float(age) if age is not None and age.isascii() and age.isdigit() else 0.0)
    return min(max(said, least), most)


class Fetcher:
    """Fetches key sets over HTTP. Its session is made at first use and must be closed."""

    def __init__(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str) -> Fetched:
        """The document at `url`. Raises Unreachable."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=_CONNECT_S),
                headers=_HEADERS,
                auto_decompress=False,
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _get(self._session, url)
        except TimeoutError:
            raise Unreachable("did not answer in time") from None
        except (aiohttp.ClientSSLError, ssl.SSLError):
            raise Unreachable("has no certificate that is trusted here") from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"cannot be connected to: {error.os_error.strerror or 'unreachable'}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"broke off its answer ({type(error).__name__})") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _get(session: aiohttp.ClientSession, url: str) -> Fetched:
    """Fetch, following redirects on the same host."""
    for _ in range(1 + MAX_REDIRECTS):
        async with session.get(url, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                url = _redirected(url, response.headers.get("Location"))
                continue
            if response.status != 200:
                raise Unreachable(f"answered with status {response.status}")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise Unreachable("answered with a content coding that was not asked for")
            document = bytearray()
            async for piece in response.content.iter_any():
                document += piece
                if len(document) > MAX_DOCUMENT_BYTES:
                    raise Unreachable(f"answered with more than {MAX_DOCUMENT_BYTES} bytes")
            cache_control = ", ".join(response.headers.getall("Cache-Control", ())) or None
            return Fetched(bytes(document), fresh_for_s(cache_control, response.headers.get("Age")))
    raise Unreachable(f"redirected more than {MAX_REDIRECTS} times")


def _redirected(url: str, location: str | None) -> str:
    if location is None:
        raise Unreachable("redirected to nowhere")
    target = urljoin(url, location)
    if _origin(target) != _origin(url):
        raise Unreachable("redirected to another host")
    return target


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class KeySource:
    """The keys of one issuer.

    `clock` gives monotonic seconds; a fetch on its way is held in `fetches`; `on_loss` is called when a key is no longer
    published.
    """

    def __init__(
        self,
        name: str,
        url: str,
        fetch: Fetch,
        clock: Callable[[], float],
        fetches: set[asyncio.Task[None]],
        *,
        on_loss: Callable[[], None] = lambda: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url
        self._fetch = fetch
        self._clock = clock
        self._fetches = fetches
        self._on_loss = on_loss
        self._issuer = Dependency(name, on_failure)
        self._keys: KeySet | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._began_at = self._refresh_at = -math.inf
        self._fresh_until = self._usable_until = -math.inf
        self._failures = 0
        self.version = 0
        """Grows when a key is gone: what was verified before is to be verified again."""

    # -- what tokens ask

    @property
    def is_usable(self) -> bool:
        """True if there are keys that may be used."""
        return self._keys is not None and self._clock() < self._usable_until

    def find(self, key_id: str | None, algorithm: str) -> VerifyingKey | None:
        """The key a token means, among those that are here. No I/O."""
        return None if self._keys is None else self._keys.find(key_id, algorithm)

    @property
    def may_look_again(self) -> bool:
        """True if a token that names an unknown key may cause a fetch, or wait for one that is on its way."""
        return self._fetching is not None or self._clock() - self._began_at >= UNKNOWN_KEY_S

    @property
    def may_try(self) -> bool:
        """True if, without any keys, a fetch is worth waiting for: the last one did not fail just now."""
        return self._fetching is not None or self._clock() >= self._refresh_at

    async def refreshed(self) -> None:
        """Wait for the fetch that is on its way, or a new one; how it went is to be asked. Need not be in a task."""
        self.refresh()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    # -- what happens in the background

    @property
    def is_due(self) -> bool:
        """True if it is time to fetch."""
        return self._fetching is None and self._clock() >= self._refresh_at

    @property
    def is_away(self) -> bool:
        """True if the last fetch failed."""
        return self._failures > 0

    @property
    def is_stale(self) -> bool:
        """True if keys are in use beyond their freshness, because the issuer is away."""
        return self.is_usable and self._clock() >= self._fresh_until

    def refresh(self) -> None:
        """Begin to fetch, unless a fetch is on its way."""
        if self._fetching is None:
            self._began_at = self._clock()
            self._fetching = asyncio.create_task(self._refresh(), name="jwks-fetch")
            self._fetches.add(self._fetching)
            self._fetching.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetches.discard(task)
        self._fetching = None

    async def _refresh(self) -> None:
        try:
            fetched = await self._fetch(self.url)
            self._succeeded(parse_key_set(fetched.document), fetched.fresh_s)
        except (Unreachable, BadKeySet) as error:
            self._failed(str(error))
        except Exception:  # noqa: BLE001 - those who wait must hear of it as of any other failure
            _log.exception("fetching the keys of %s failed inside", self._issuer.name)
            self._failed("failed inside")

    def _succeeded(self, keys: KeySet, fresh_s: float) -> None:
        now = self._clock()
        self._issuer.up()
        self._failures = 0
        self._refresh_at = now + fresh_s * _REFRESH_AT
        self._fresh_until = now + fresh_s
        self._usable_until = self._fresh_until + STALE_S
        before, self._keys = self._keys, keys
        if not len(keys):
            _log.warning("%s publishes no key that could verify a token", self._issuer.name)
        if before is not None and not before.texts <= keys.texts:
            self._lost()

    def _failed(self, reason: str) -> None:
        first, longest = RETRY_S
        now = self._clock()
        self._issuer.down(reason)
        self._refresh_at = now + min(longest, first * 2.0 ** min(self._failures, 10))
        self._failures += 1
        if self._keys is not None and now >= self._usable_until:
            _log.error("%s has been away for too long; its last keys are no longer used", self._issuer.name)
            self._keys = None
            self._lost()

    def _lost(self) -> None:
        self.version += 1
        self._on_loss()
