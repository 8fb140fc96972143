"""The nodes of a sandbox and how they ask each other: whoever gets a question about a run may not be the one that runs it.

A *node* is one `tollgate sandbox`; nodes share a database and a secret, and stand behind one upstream of the gateway.
Questions and answers are notifications of PostgreSQL (LISTEN/NOTIFY), so that nodes need no addresses of each other, and a
node that runs alone asks nobody. Each carries a MAC by the secret, as anybody who may connect to a database may notify in
it; whose run it is, is judged by the node that has it.

Bounds: 1,000 questions under way, 1,000 answers waiting to be sent; beyond, and while PostgreSQL is away, they are dropped,
and whoever asked finds out after a second. A node that says nothing for 15 s is no longer asked. Fails: `Silent` where an
answer is missing that may have been the one.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import orjson

from sandbox.store.database import Database, Unavailable, statements
from sandbox.store.runs import Owner

_SQL: Final = statements("nodes.sql")
_CHANNEL: Final = "tollgate_sandbox"
_BEAT_S: Final = 5.0
_SILENT_AFTER: Final = timedelta(seconds=15)
_ANSWER_S: Final = 1.0
_PAUSE_S: Final = 1.0
_MOST: Final = 1_000
MOST_LIVE: Final = 100
"""How many runs a node tells of: a notification holds 8,000 bytes."""

log = logging.getLogger(__name__)

FIND: Final = "find"
STOP: Final = "stop"
LIVE: Final = "live"
Told = Callable[[str, str, Owner], Any]
"""What a node answers to (what, run, owner): for FIND and STOP the run's state, for LIVE a list of {id, status}; None for
what it does not have. Must not wait."""


class Silent(Exception):
    """A node that is there did not answer in time."""


@dataclass(slots=True, eq=False)
class _Asked:
    missing: set[str]
    is_of_one: bool
    done: asyncio.Future[None]
    found: list[Any] = field(default_factory=list)


class Nodes:
    """This node, and what it knows of the others."""

    def __init__(self, database: Database, name: str, secret: bytes) -> None:
        self.name = name
        self._database = database
        self._secret = secret
        self._told: Told | None = None
        self._asked: dict[int, _Asked] = {}
        self._numbers = itertools.count(1)
        self._answers: asyncio.Queue[str] = asyncio.Queue(_MOST)
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, told: Told) -> None:
        """Start to listen, and to answer by `told`."""
        self._told = told
        self._tasks = [
            asyncio.create_task(self._listen(), name="nodes listener"),
            asyncio.create_task(self._answer(), name="nodes answers"),
        ]

    async def close(self) -> None:
        """Stop, and be asked no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with self._database.connection() as connection:
                await connection.execute(_SQL["gone"], self.name)
        except Unavailable:
            pass

    async def ask(self, what: str, run: str, owner: Owner) -> Any:
        """The first answer of another node to FIND or STOP, None if none has the run. Raises Unavailable, Silent."""
        found = await self._ask(what, run, owner, is_of_one=True)
        return found[0] if found else None

    async def live(self, owner: Owner) -> list[dict[str, str]]:
        """The owner's runs on other nodes. Raises Unavailable; what a silent node has is missing."""
        try:
            found = await self._ask(LIVE, "", owner, is_of_one=False)
        except Silent:
            return []
        return [run for runs in found for run in runs]

    async def _ask(self, what: str, run: str, owner: Owner, *, is_of_one: bool) -> list[Any]:
        async with self._database.connection() as connection:
            others = {row["name"] for row in await connection.fetch(_SQL["others"], self.name, _SILENT_AFTER)}
            if not others:
                return []
            if len(self._asked) >= _MOST:
                raise Silent
            number = next(self._numbers)
            asked = self._asked[number] = _Asked(others, is_of_one, asyncio.get_running_loop().create_future())
            whose = [owner.project, owner.mode, owner.customer, owner.sees_all]
            question = {"from": self.name, "number": number, "what": what, "run": run, "owner": whose}
            try:
                await connection.execute(_SQL["say"], self._sealed(question))
            except BaseException:
                del self._asked[number]
                raise
        try:
            async with asyncio.timeout(_ANSWER_S):
                await asked.done
        except TimeoutError:
            log.warning("nodes %s did not answer", ", ".join(sorted(asked.missing)))
            raise Silent from None
        finally:
            del self._asked[number]
        return asked.found

    def _heard(self, _: Any, __: int, ___: str, payload: object) -> None:
        message = self._opened(str(payload))
        if message is None or message["from"] == self.name:
            return
        if "what" in message:
            assert self._told is not None
            found = self._told(message["what"], message["run"], Owner(*message["owner"]))
            answer = {"from": self.name, "to": message["from"], "number": message["number"], "found": found}
            try:
                self._answers.put_nowait(self._sealed(answer))
            except asyncio.QueueFull:
                log.warning("too many questions of other nodes: one is not answered")
        elif message["to"] == self.name and (asked := self._asked.get(message["number"])) is not None:
            asked.missing.discard(message["from"])
            if message["found"] is not None:
                asked.found.append(message["found"])
            if (not asked.missing or (asked.is_of_one and asked.found)) and not asked.done.done():
                asked.done.set_result(None)

    def _sealed(self, message: dict[str, Any]) -> str:
        body = orjson.dumps(message)
        return hmac.digest(self._secret, body, "sha256").hex() + body.decode()

    def _opened(self, payload: str) -> dict[str, Any] | None:
        body = payload[64:].encode()
        expected = hmac.digest(self._secret, body, "sha256").hex()
        if not hmac.compare_digest(payload[:64].encode(), expected.encode()):
            log.warning("a notification that no node of ours has made is left alone")
            return None
        message: dict[str, Any] = orjson.loads(body)
        return message

    async def _answer(self) -> None:
        while True:
            answer = await self._answers.get()
            try:
                async with self._database.connection() as connection:
                    await connection.execute(_SQL["say"], answer)
            except Unavailable:
                pass  # whoever asked finds out

    async def _listen(self) -> None:
        while True:
            try:
                async with self._database.own_connection() as connection:
                    await connection.add_listener(_CHANNEL, self._heard)
                    while True:
                        await connection.execute(_SQL["here"], self.name)
                        await asyncio.sleep(_BEAT_S)
            except Unavailable:
                await asyncio.sleep(_PAUSE_S)


def name_of(host: str, url: str) -> str:
    """A node's name: the same again when it is started again, so that nobody waits for the one before."""
    return f"{host} {url}"[:200]
