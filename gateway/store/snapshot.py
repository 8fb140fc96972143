"""Keys, customers, tiers, issuers and routes in memory: filled on demand, forgotten within a second of a change.

Routes and issuers are loaded at start and whenever one changes; keys and customers when they are first seen. Every
change to a control table writes a row to `changes` and notifies in its own transaction (see the schema), so a gateway
learns of it by the message, or, should the message be lost, by polling the revision (gateway.store.follow). What a change
touches is forgotten (gateway.store.remembered) and looked up again when next needed. Revisions are handed out in commit
order: having seen n means having seen all before n.

Failure: while Postgres is away what is known stays in use and look-ups raise Unavailable for what is not. A look-up that
raced with a change is used once and not kept. Bounds: `max_keys` principals and as many unknown hashes, oldest dropped;
at most 64 look-ups at once, the rest wait within their deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from gateway.store.follow import Follower
from gateway.store.issuers import IssuerTable
from gateway.store.nouns import Customer, Principal, Tier
from gateway.store.remembered import Remembered
from gateway.store.rows import customer_of, issuers_of, principal_of, routes_of, tiers_of
from gateway.store.table import RouteTable
from ledger.ids import customer_id_for
from ledger.sql import load

if TYPE_CHECKING:
    from gateway.store.remembered import Tiers, Where
    from ledger.vault import Vault

_log = logging.getLogger("gateway.snapshot")
_SQL = load("gateway.store", "snapshot.sql")

_T = TypeVar("_T")


class Unavailable(Exception):
    """Postgres could not be asked within the deadline."""


class Snapshot:
    """The gateway's memory of the control plane."""

    def __init__(
        self, postgres_url: str, *, deadline: float, poll_interval: float, max_keys: int, vault: Vault | None = None
    ) -> None:
        self._deadline = deadline
        self._vault = vault
        self._busy = asyncio.Semaphore(64)
        self._loading: dict[Any, asyncio.Future[Any]] = {}
        self._failures = 0
        self._remembered = Remembered(max_keys)
        self._principals = self._remembered.principals
        self._follower = Follower(postgres_url, self._catch_up, deadline=deadline, poll_interval=poll_interval)
        self.table = RouteTable(())
        self.issuers = IssuerTable(())
        self.revision = -1
        self.generation = 0
        """Grows with every change applied; what is remembered beside a key is good for one generation of its parts."""
        self.is_loaded = False

    @property
    def is_connected(self) -> bool:
        return self._follower.is_connected

    @property
    def errors(self) -> int:
        """How often Postgres could not be asked."""
        return self._follower.errors + self._failures

    @property
    def fresh_at(self) -> float:
        """Monotonic seconds of the last time the snapshot was known to be current."""
        return self._follower.fresh_at

    # -- what requests ask

    def known(self, key_hash: bytes) -> Principal | None:
        """The principal of a key that is in memory. No I/O."""
        return self._principals.get(key_hash)

    def is_known_unknown(self, key_hash: bytes) -> bool:
        """True if Postgres said lately that no such key exists. No I/O."""
        return self._remembered.is_unknown(key_hash)

    async def principal(self, key_hash: bytes) -> Principal | None:
        """The principal of a key, looked up once however many ask. Raises Unavailable."""
        return await self._single(("key", key_hash), lambda: self._load_principal(key_hash))

    def known_end_user(self, project_id: str, mode: str, external_id: str) -> Customer | None:
        """A customer in memory, by the project's own id for it. No I/O."""
        return self._remembered.end_users.get((project_id, mode, external_id))

    async def end_user(self, project_id: str, mode: str, external_id: str) -> Customer:
        """The customer a project calls `external_id`; one that has no row yet is made up. Raises Unavailable."""
        where = (project_id, mode, external_id)
        return await self._single(("user", where), lambda: self._load_end_user(where))

    async def tier(self, project_id: str, mode: str, name: str) -> Tier | None:
        """A tier by its name. Raises Unavailable."""
        known = self._remembered.tiers.get((project_id, mode))
        if known is None:
            known = await self._single(("tiers", project_id, mode), lambda: self._load_tiers(project_id, mode))
        return known[0].get(name)

    def known_tiers(self, project_id: str, mode: str) -> dict[str, Tier] | None:
        """The tiers of a project in memory, by name. No I/O."""
        known = self._remembered.tiers.get((project_id, mode))
        return None if known is None else known[0]

    def renew(self) -> None:
        """Have everything that is remembered about callers looked at again: something it rests on is gone."""
        self.generation += 1

    # -- life

    def start(self) -> None:
        """Begin following Postgres; goes on by itself until `close`."""
        self._follower.start()

    async def close(self) -> None:
        await self._follower.close()

    async def _catch_up(self, connection: asyncpg.Connection) -> None:
        if self.revision < 0:
            revision = await connection.fetchval(_SQL["revision"])
            await self._load_routes(connection)
            await self._load_issuers(connection)
            self.revision = revision
            self.generation += 1
            self.is_loaded = True
            return
        changes = await connection.fetch(_SQL["changes_since"], self.revision)
        if changes and changes[0]["revision"] > self.revision + 1:
            oldest = await connection.fetchval(_SQL["oldest_revision"])
            if oldest > self.revision + 1:  # trimmed while this gateway was away: believe nothing
                await self._forget_everything(connection, await connection.fetchval(_SQL["revision"]))
                changes = []
        if changes:
            await self._apply(connection, changes)
            self.revision = changes[-1]["revision"]

    async def _apply(self, connection: asyncpg.Connection, changes: list[asyncpg.Record]) -> None:
        self.generation += 1  # first what needs no query: a revocation waits for nothing
        remembered = self._remembered
        for change in changes:
            noun = change["noun"]
            if noun == "key":
                remembered.forget_key(change["object_id"])
            elif noun == "customer":
                remembered.forget_customer(change["object_id"])
            elif noun in ("tier", "project"):
                remembered.forget_tiers(change["project_id"])
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
        self._remembered.forget_everything()
        self.revision = revision

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
            self._failures += 1
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def _postgres(self) -> asyncpg.Pool:
        if self._follower.pool is None:
            raise OSError("postgres is not connected")
        return self._follower.pool

    async def _load_principal(self, key_hash: bytes) -> Principal | None:
        generation = self.generation
        async with self._postgres().acquire() as connection:
            row = await connection.fetchrow(_SQL["key_by_hash"], key_hash)
            if row is None:
                if generation == self.generation:
                    self._remembered.keep_unknown(key_hash)
                return None
            customer_row = None
            if row["customer_id"] is not None:
                customer_row = await connection.fetchrow(_SQL["customer_by_id"], row["customer_id"])
        customer = None if customer_row is None else await self._customer_of(customer_row)
        principal = principal_of(row, key_hash, customer)
        if generation == self.generation:
            self._remembered.keep_principal(principal)
        return principal

    async def _load_end_user(self, where: Where) -> Customer:
        generation = self.generation
        async with self._postgres().acquire() as connection:
            row = await connection.fetchrow(_SQL["customer_by_external"], *where)
        if row is not None:
            customer = await self._customer_of(row)
        else:
            _, default = await self._load_tiers(where[0], where[1])
            customer = Customer(customer_id_for(*where), where[2], default, None, is_known=False)
        if generation == self.generation:
            self._remembered.keep_end_user(where, customer)
        return customer

    async def _customer_of(self, row: asyncpg.Record) -> Customer:
        return customer_of(row, await self._load_tiers(row["project_id"], row["mode"]))

    async def _load_tiers(self, project_id: str, mode: str) -> Tiers:
        known = self._remembered.tiers.get((project_id, mode))
        if known is None:
            generation = self.generation
            async with self._postgres().acquire() as connection:
                known = tiers_of(await connection.fetch(_SQL["tiers"], project_id, mode))
            if generation == self.generation:
                self._remembered.tiers[project_id, mode] = known
        return known

    async def _load_routes(self, connection: asyncpg.Connection) -> None:
        """Read all routes and swap the table."""
        self.table = routes_of(await connection.fetch(_SQL["routes"]), self.table.by_id, self._vault)

    async def _load_issuers(self, connection: asyncpg.Connection) -> None:
        """Read all issuers and swap their table."""
        self.issuers = issuers_of(await connection.fetch(_SQL["issuers"]), self.issuers.by_id)
