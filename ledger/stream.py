"""The Redis side of ingest: usage events are taken from the streams here, and removed once they are stored.

Nouns: a *stream* per shard (ledger.names), one consumer *group* `ledger` on each, a *consumer* per worker process. An
entry handed to a consumer is *pending* until it is acknowledged; acknowledged entries are deleted at once, so the
length of a stream is the number of events not yet stored.

Delivery is at least once, exactly once is Postgres' part (ledger.ingest). Nothing is lost on the way:
- a reply lost with its connection leaves entries pending for this consumer: `replay()` lets the next reads return them;
- entries of a consumer that fell silent are taken over by `reclaim()`;
- a group that is gone (FLUSHALL, a new shard) is made again from the beginning of the stream by `prepare()`.

Errors: every method raises redis.exceptions.RedisError or OSError when Redis is away, and GroupLost when a group has to
be prepared again. The bound on memory is one batch: `read` and `reclaim` return at most `limit` entries (or one per
stream, where that is more) and the caller asks for more only when those are stored.

An instance reads all its streams in one command, so they must live on one Redis; on a cluster make one per stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from ledger.names import CONSUMER_GROUP

_NEW: Final = b">"
_OWN_PENDING: Final = b"0"
_BEGINNING: Final = b"0-0"
_DEADLINE_S: Final = 5.0
"""Longest wait for the answer to a command."""

BLOCK_MS: Final = 400
"""How long a read waits for the first event: the time it takes to notice a stop."""
LINGER_MS: Final = 20
"""How long a batch that is not full waits for more: at low rates, transactions a second rather than events a second."""


class GroupLost(Exception):
    """A stream has no consumer group (any more)."""


class Entry(NamedTuple):
    """One entry as delivered: its stream, its id (`ms-seq`) and its fields."""

    stream: str
    id: bytes
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not stored yet: number of entries, and when the oldest came (Unix ms; None where there is none)."""

    entries: int
    oldest_ms: int | None


def connect(url: str) -> Redis:
    """A client that never repeats a command behind the caller's back.

    It has no timeout of its own for commands: it would use wait_for, which before Python 3.12 can swallow a cancellation.
    """
    return Redis.from_url(
        url,
        protocol=2,
        socket_connect_timeout=_DEADLINE_S,
        socket_timeout=None,
        socket_read_size=262_144,
        retry=Retry(NoBackoff(), 0),
    )


class UsageStream:
    """One consumer's view of some streams. Not safe for use by several tasks at once, except for `backlog`."""

    def __init__(
        self,
        client: Redis,
        streams: Sequence[str],
        consumer: str,
        *,
        block_ms: int = BLOCK_MS,
        linger_ms: int = LINGER_MS,
    ) -> None:
        self._client = client
        self._streams = tuple(streams)
        self._consumer = consumer
        self._block_ms = block_ms
        self._linger_ms = linger_ms
        self._replaying = True
        self._cursors: dict[str, bytes] = {}
        self._remove_silent = client.register_script(
            resources.files("ledger").joinpath("remove_silent.lua").read_text(encoding="utf-8")
        )

    async def prepare(self) -> None:
        """Make the group on every stream that lacks it, and the stream with it. Starts at the oldest entry."""
        for stream in self._streams:
            try:
                await self._execute("XGROUP", "CREATE", stream, CONSUMER_GROUP, "0", "MKSTREAM")
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def replay(self) -> None:
        """Return what is pending for this consumer before anything new: a reply may have been lost."""
        self._replaying = True

    async def read(self, limit: int) -> list[Entry]:
        """The next entries, at most `limit`: own pending ones, else new ones, waiting up to BLOCK_MS for the first."""
        if self._replaying:
            batch = await self._read_all(_OWN_PENDING, limit, None)
            if batch:
                return batch
            self._replaying = False
        batch = await self._read_all(_NEW, limit, self._block_ms)
        if batch and len(batch) <= limit // 2:
            await asyncio.sleep(self._linger_ms / 1000)
            batch += await self._read_all(_NEW, limit - len(batch), None)
        return batch

    async def _read_all(self, start: bytes, limit: int, block_ms: int | None) -> list[Entry]:
        """Read until the batch is full or the streams are empty. COUNT is per stream: who had more is asked again."""
        batch: list[Entry] = []
        streams: Sequence[str] = self._streams
        after = dict.fromkeys(streams, start)
        while streams:
            count = max(1, (limit - len(batch)) // len(streams))
            command: list[Any] = ["XREADGROUP", "GROUP", CONSUMER_GROUP, self._consumer, "COUNT", count]
            if block_ms is not None:
                command += ["BLOCK", block_ms]
            reply = await self._execute(*command, "STREAMS", *streams, *(after[s] for s in streams))
            more = []
            for name, entries in reply:
                stream = name.decode()
                batch += await self._existing(stream, entries)
                if len(entries) >= count:
                    more.append(stream)
                    if start is not _NEW:
                        after[stream] = entries[-1][0]
            streams = more if len(more) <= limit - len(batch) else ()
            block_ms = None
        return batch

    async def reclaim(self, idle_ms: int, limit: int) -> tuple[list[Entry], bool]:
        """Take over entries that were handed to some consumer `idle_ms` ago or longer and are still pending.

        Returns the entries and whether the pass is complete; call again until it is.
        """
        batch: list[Entry] = []
        count = max(1, limit // len(self._streams))
        unfinished = self._cursors or dict.fromkeys(self._streams, _BEGINNING)
        self._cursors = {}
        for stream, start in unfinished.items():
            cursor, entries, *_ = await self._execute(
                "XAUTOCLAIM", stream, CONSUMER_GROUP, self._consumer, idle_ms, start, "COUNT", count
            )
            named = [entry for entry in entries if entry[0] is not None]
            if len(named) < len(entries):  # Redis 6.2 names deleted entries only when they are read as one's own
                self._replaying = True
            batch += await self._existing(stream, named)
            if cursor != _BEGINNING:
                self._cursors[stream] = cursor
        return batch, not self._cursors

    async def acknowledge(self, entries: Iterable[Entry]) -> None:
        """Forget entries for good: they are stored. Acknowledged and deleted together, or not at all."""
        pipeline = self._client.pipeline(transaction=True)
        for stream, group in groupby(sorted(entries, key=lambda e: e.stream), key=lambda e: e.stream):
            ids = [entry.id for entry in group]
            pipeline.execute_command("XACK", stream, CONSUMER_GROUP, *ids)
            pipeline.execute_command("XDEL", stream, *ids)
        async with asyncio.timeout(_DEADLINE_S):
            await pipeline.execute()

    async def remove_silent(self, idle_ms: int) -> int:
        """Remove consumers that hold nothing and have not asked for anything for `idle_ms`; returns how many."""
        removed = 0
        for stream in self._streams:
            async with asyncio.timeout(_DEADLINE_S):
                removed += await self._remove_silent(keys=[stream], args=[CONSUMER_GROUP, idle_ms, self._consumer])
        return removed

    async def backlog(self) -> Backlog:
        """What the streams hold now, over all consumers."""
        pipeline = self._client.pipeline(transaction=False)
        for stream in self._streams:
            pipeline.xlen(stream)
            pipeline.execute_command("XRANGE", stream, "-", "+", "COUNT", 1)
        async with asyncio.timeout(_DEADLINE_S):
            replies = await pipeline.execute()
        oldest = [int(entries[0][0].partition(b"-")[0]) for entries in replies[1::2] if entries]
        return Backlog(entries=sum(replies[0::2]), oldest_ms=min(oldest, default=None))

    async def _existing(self, stream: str, entries: Sequence[Any]) -> list[Entry]:
        """The entries that still have fields; one deleted while it was pending has none and is only acknowledged."""
        gone = [entry_id for entry_id, fields in entries if not fields]
        if gone:
            await self._execute("XACK", stream, CONSUMER_GROUP, *gone)
        return [Entry(stream, entry_id, fields) for entry_id, fields in entries if fields]

    async def _execute(self, *command: Any) -> Any:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise GroupLost(str(error)) from error
            raise
