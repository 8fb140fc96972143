"""Keys, customers, tiers, issuers and routes in memory: filled on demand, forgotten within a second of a change.

Routes and issuers are loaded at start and whenever one changes; keys and customers when they are first seen. Every
change to a control table writes a row to `changes` and notifies in its own transaction (see the schema), so a gateway
learns of it by the message, or, should the message be lost, by polling the revision. What a change touches is
forgotten and looked up again when next needed. Revisions are handed out in commit order: having seen n means having
seen all before n.

Failure: while Postgres is away what is known stays in use and `lookup` raises Unavailable for what is not. A look-up that
raced with a change is used once and not kept. Bounds: `max_keys` principals and as many unknown hashes, oldest dropped;
at most 64 look-ups at once, the rest wait within their deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
from pydantic import ValidationError

from gateway.store.compile import make_route
from gateway.store.issuers import IssuerTable
from gateway.store.nouns import Customer, Issuer, Overage, Principal, Tier
from gateway.store.table import RouteTable
from ledger.ids import customer_id_for
from ledger.specs import IssuerSpec, RouteSpec, UpstreamSpec
from ledger.sql import load
from ledger.vault import Vault

_log = logging.getLogger("gateway.snapshot")
_SQL = load("gateway.store", "snapshot.sql")
_UNKNOWN_FOR: Final = 30.0
"""Seconds an unknown hash is remembered; a newly made key is announced by its change, so this only bounds memory."""

_T = TypeVar("_T")


class Unavailable(Exception):
    """Postgres could not be asked within the deadline."""


class Snapshot:
    """The gateway's memory of the control plane."""

    def __init__(
        self, postgres_url: str, *, deadline: float, poll_interval: float, max_keys: int, vault: Vault | None = None
    ) -> None:
        self._url = postgres_url
        self._deadline = deadline
        self._poll_interval = poll_interval
        self._max_keys = max_keys
        self._vault = vault
        self._pool: asyncpg.Pool | None = None
        self._wake = asyncio.Event()
        self._busy = asyncio.Semaphore(64)
        self._task: asyncio.Task[None] | None = None
        self._loading: dict[Any, asyncio.Future[Any]] = {}
        self._principals: dict[bytes, Principal] = {}
        self._hash_of: dict[str, bytes] = {}
        self._user_of: dict[str, tuple[str, str, str]] = {}
        self._unknown: dict[bytes, float] = {}
        self._by_external: dict[tuple[str, str, str], Customer] = {}
        self._keys_of: dict[str, set[bytes]] = {}
        self._tiers: dict[tuple[str, str], tuple[dict[str, Tier], Tier | None]] = {}
        self.table = RouteTable(())
        self.issuers = IssuerTable(())
        self.revision = -1
        self.generation = 0
        """Grows with every change applied; what is remembered beside a key is good for one generation of its parts."""
        self.is_loaded = False
        self.is_connected = False
        self.errors = 0
        self.fresh_at = 0.0
        """Monotonic seconds of the last time the snapshot was known to be current."""

    # -- what requests ask

    def known(self, key_hash: bytes) -> Principal | None:
        """The principal of a key that is in memory. No I/O."""
        return self._principals.get(key_hash)

    def is_known_unknown(self, key_hash: bytes) -> bool:
        """True if Postgres said lately that no such key exists. No I/O."""
        expires = self._unknown.get(key_hash)
        return expires is not None and expires > time.monotonic()

    async def principal(self, key_hash: bytes) -> Principal | None:
        """The principal of a key, looked up once however many ask. Raises Unavailable."""
        return await self._single(("key", key_hash), lambda: self._load_principal(key_hash))

    def known_end_user(self, project_id: str, mode: str, external_id: str) -> Customer | None:
        """A customer in memory, by the project's own id for it. No I/O."""
        return self._by_external.get((project_id, mode, external_id))

    async def end_user(self, project_id: str, mode: str, external_id: str) -> Customer:
        """The customer a project calls `external_id`; one that has no row yet is made up. Raises Unavailable."""
        where = (project_id, mode, external_id)
        return await self._single(("user", where), lambda: self._load_end_user(where))

    async def tier(self, project_id: str, mode: str, name: str) -> Tier | None:
        """A tier by its name. Raises Unavailable."""
        known = self._tiers.get((project_id, mode))
        if known is None:
            known = await self._single(("tiers", project_id, mode), lambda: self._tiers_of(project_id, mode))
        return known[0].get(name)

    def known_tiers(self, project_id: str, mode: str) -> dict[str, Tier] | None:
        """The tiers of a project in memory, by name. No I/O."""
        known = self._tiers.get((project_id, mode))
        return None if known is None else known[0]

    def renew(self) -> None:
        """Have everything that is remembered about callers looked at again: something it rests on is gone."""
        self.generation += 1

    # -- life

    def start(self) -> None:
        """Begin following Postgres; goes on by itself until `close`."""
        self._task = asyncio.create_task(self._follow(), name="snapshot-follow")

    async def close(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()  # again, should a library have swallowed it
            await asyncio.wait((self._task,), timeout=0.5)

    async def _follow(self) -> None:
        delay = 0.1
        while True:
            try:
                await self._follow_connected()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the cure is to connect again
                if self.is_connected or delay == 0.1:
                    _log.warning("postgres cannot be followed: %s: %s", type(error).__name__, error)
                self.errors += 1
            self.is_connected = False
            await asyncio.sleep(delay)
            delay = min(1.0, delay * 2) if not self.fresh_at else 0.25

    async def _follow_connected(self) -> None:
        """Connect, catch up, then wait for messages and poll; returns only by raising."""
        deadline = self._deadline
        connection = await asyncpg.connect(self._url, command_timeout=deadline, timeout=deadline)
        try:
            await connection.add_listener("tollgate_changes", self._notified)
            await self._catch_up(connection)
            async with asyncpg.create_pool(
                self._url, min_size=0, max_size=4, command_timeout=deadline, timeout=deadline
            ) as pool:
                self._pool = pool
                self.is_connected = True
                try:
                    while True:
                        try:  # not wait_for: before Python 3.12 it loses a cancellation that meets the event
                            async with asyncio.timeout(self._poll_interval):
                                await self._wake.wait()
                        except TimeoutError:
                            pass
                        self._wake.clear()  # before looking: what is told from here on is looked at again
                        await self._catch_up(connection)
                finally:
                    self._pool = None
                    pool.terminate()
        finally:
            connection.terminate()

    def _notified(self, *_: object) -> None:
        self._wake.set()

    async def _catch_up(self, connection: asyncpg.Connection) -> None:
        if self.revision < 0:
            revision = await connection.fetchval(_SQL["revision"])
            await self._load_routes(connection)
            await self._load_issuers(connection)
            self.revision = revision
            self.generation += 1
            self.is_loaded = True
        else:
            changes = await connection.fetch(_SQL["changes_since"], self.revision)
            if changes and changes[0]["revision"] > self.revision + 1:
                oldest = await connection.fetchval(_SQL["oldest_revision"])
                if oldest > self.revision + 1:  # trimmed while this gateway was away: believe nothing
                    await self._forget_everything(connection, await connection.fetchval(_SQL["revision"]))
                    changes = []
            if changes:
                await self._apply(connection, changes)
                self.revision = changes[-1]["revision"]
        self.fresh_at = time.monotonic()

    async def _apply(self, connection: asyncpg.Connection, changes: list[asyncpg.Record]) -> None:
        self.generation += 1  # first what needs no query: a revocation waits for nothing
        for change in changes:
            noun, object_id, project_id = change["noun"], change["object_id"], change["project_id"]
            if noun == "key":
                self._forget_key(self._hash_of.get(object_id))
                self._unknown.clear()
            elif noun == "customer":
                for key_hash in tuple(self._keys_of.get(object_id, ())):
                    self._forget_key(key_hash)
                self._forget_user(self._user_of.get(object_id))
            elif noun in ("tier", "project"):
                self._forget_tiers(project_id)
        nouns = {change["noun"] for change in changes}
        if nouns & {"route", "upstream", "project"}:
            await self._load_routes(connection)
            self.generation += 1
        if nouns & {"issuer", "project"}:
            await self._load_issuers(connection)
            self.generation += 1
        _log.debug("applied %d changes up to revision %d", len(changes), changes[-1]["revision"])

    async def _forget_everything(self, connection: asyncpg.Connection, revision: int) -> None:
        await self._load_routes(connection)
        await self._load_issuers(connection)
        self.generation += 1
        for key_hash in tuple(self._principals):
            self._forget_key(key_hash)
        for where in tuple(self._by_external):
            self._forget_user(where)
        self._unknown.clear()
        self._tiers.clear()
        self.revision = revision

    def _forget_key(self, key_hash: bytes | None) -> None:
        principal = self._principals.pop(key_hash, None) if key_hash is not None else None
        if principal is None or key_hash is None:
            return
        self._hash_of.pop(principal.key_id, None)
        if principal.customer is not None:
            keys = self._keys_of.get(principal.customer.id, set())
            keys.discard(key_hash)
            if not keys:
                self._keys_of.pop(principal.customer.id, None)

    def _forget_user(self, where: tuple[str, str, str] | None) -> None:
        customer = self._by_external.pop(where, None) if where is not None else None
        if customer is not None:
            self._user_of.pop(customer.id, None)

    def _forget_tiers(self, project_id: str) -> None:
        for mode in ("live", "test"):
            self._tiers.pop((project_id, mode), None)
        for key_hash in [h for h, p in self._principals.items() if p.project_id == project_id]:
            self._forget_key(key_hash)
        for where in [w for w in self._by_external if w[0] == project_id]:
            self._forget_user(where)

    # -- loading

    async def _single(self, what: Any, make: Callable[[], Awaitable[_T]]) -> _T:
        """Run `make` once for all who ask for `what` at the same time, within the deadline.

        Who asks after a change was applied does not share what was begun before it.
        """
        what = (self.generation, what)
        running = self._loading.get(what)
        if running is None:
            running = asyncio.ensure_future(self._bounded(make))
            self._loading[what] = running
            running.add_done_callback(lambda _: self._loading.pop(what, None))
        result: _T = await asyncio.shield(running)
        return result

    async def _bounded(self, make: Callable[[], Awaitable[_T]]) -> _T:
        try:
            async with asyncio.timeout(self._deadline), self._busy:
                return await make()
        except (
            OSError,
            TimeoutError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ) as error:
            self.errors += 1
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def _postgres(self) -> asyncpg.Pool:
        if self._pool is None:
            raise OSError("postgres is not connected")
        return self._pool

    async def _load_principal(self, key_hash: bytes) -> Principal | None:
        generation = self.generation
        async with self._postgres().acquire() as connection:
            row = await connection.fetchrow(_SQL["key_by_hash"], key_hash)
            if row is None:
                if len(self._unknown) >= self._max_keys:
                    self._unknown.clear()
                if generation == self.generation:
                    self._unknown[key_hash] = time.monotonic() + _UNKNOWN_FOR
                return None
            customer_row = None
            if row["customer_id"] is not None:
                customer_row = await connection.fetchrow(_SQL["customer_by_id"], row["customer_id"])
        customer = None if customer_row is None else await self._make_customer(customer_row)
        principal = Principal(
            key_id=row["id"],
            project_id=row["project_id"],
            mode=row["mode"],
            kind=row["kind"],
            customer=customer,
            scopes=frozenset(row["scopes"]),
            requests_per_minute=row["requests_per_minute"],
            allowed_origins=tuple(row["allowed_origins"]),
            allowed_ips=tuple(row["allowed_ips"]),
            expires_at=row["expires_at"],
            is_revoked=row["is_revoked"],
            key_hash=key_hash,
        )
        if generation == self.generation:
            if len(self._principals) >= self._max_keys:
                self._forget_key(next(iter(self._principals)))
            self._principals[key_hash] = principal
            self._hash_of[principal.key_id] = key_hash
            if customer is not None:
                self._keys_of.setdefault(customer.id, set()).add(key_hash)
        return principal

    async def _make_customer(self, row: asyncpg.Record) -> Customer:
        tiers, default = await self._tiers_of(row["project_id"], row["mode"])
        tier = next((t for t in tiers.values() if t.id == row["tier_id"]), default)
        return Customer(row["id"], row["external_id"], tier, row["anchor_at"], is_known=True)

    async def _load_end_user(self, where: tuple[str, str, str]) -> Customer:
        generation = self.generation
        async with self._postgres().acquire() as connection:
            row = await connection.fetchrow(_SQL["customer_by_external"], *where)
        if row is not None:
            customer = await self._make_customer(row)
        else:
            _, default = await self._tiers_of(where[0], where[1])
            customer = Customer(customer_id_for(*where), where[2], default, None, is_known=False)
        if generation == self.generation:
            if len(self._by_external) >= self._max_keys:
                self._forget_user(next(iter(self._by_external)))
            self._by_external[where] = customer
            self._user_of[customer.id] = where
        return customer

    async def _tiers_of(self, project_id: str, mode: str) -> tuple[dict[str, Tier], Tier | None]:
        known = self._tiers.get((project_id, mode))
        if known is None:
            generation = self.generation
            async with self._postgres().acquire() as connection:
                rows = await connection.fetch(_SQL["tiers"], project_id, mode)
            tiers: dict[str, Tier] = {}
            default: Tier | None = None
            for row in rows:
                quotas = dict(zip(row["meters"], row["quotas"], strict=True))
                tiers[row["name"]] = tier = Tier(
                    row["id"],
                    row["name"],
                    row["requests_per_minute"],
                    quotas,
                    row["concurrent_requests"],
                    row["burst"],
                    row["is_shadow"],
                    row["spend_cap_minor"],
                    _overage(row),
                    row["upgrade_url"],
                )
                if row["is_default"]:
                    default = tier
            known = (tiers, default)
            if generation == self.generation:
                self._tiers[project_id, mode] = known
        return known

    async def _load_routes(self, connection: asyncpg.Connection) -> None:
        """Read all routes and swap the table; one that did not change keeps its object.

        One that this release cannot read is left out and logged, never fatal.
        """
        before = self.table.by_id
        routes = []
        for row in await connection.fetch(_SQL["routes"]):
            try:
                spec = RouteSpec.model_validate_json(row["spec"])
                upstream = UpstreamSpec.model_validate_json(row["upstream_spec"])
            except ValidationError as error:
                _log.error(
                    "route %s is left out: %s", row["name"], error.errors(include_url=False, include_input=False)
                )
                continue
            kept, sealed = before.get(row["id"]), (row["secret"], row["upstream_secret"])
            if kept is None or kept.spec != spec or kept.upstream != upstream or kept.sealed != sealed:
                kept = make_route(row["id"], row["project_id"], row["upstream_id"], spec, upstream, sealed, self._vault)
            routes.append(kept)
        self.table = RouteTable(routes)

    async def _load_issuers(self, connection: asyncpg.Connection) -> None:
        """Read all issuers and swap their table; one that did not change keeps its object."""
        before = self.issuers.by_id
        issuers = []
        for row in await connection.fetch(_SQL["issuers"]):
            try:
                spec = IssuerSpec.model_validate_json(row["spec"])
            except ValidationError as error:
                _log.error(
                    "issuer %s is left out: %s", row["name"], error.errors(include_url=False, include_input=False)
                )
                continue
            kept = before.get(row["id"])
            is_same = kept is not None and kept.spec == spec
            issuers.append(kept if kept and is_same else Issuer(row["id"], row["project_id"], spec))
        self.issuers = IssuerTable(issuers)


def _overage(row: asyncpg.Record) -> tuple[Overage, ...]:
    """The meters of a tier that cost money beyond what is included."""
    meters = zip(row["meters"], row["included"], row["prices"], strict=True)
    return tuple(Overage(meter, included, price) for meter, included, price in meters if included is not None and price)
