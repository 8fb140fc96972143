"""The limit scripts as the gateway calls them, on a blocking connection, with a clock that a test can set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis

from gateway.limits.calls import ADMIT, SETTLE
from tests.support.servers import trust

RESERVATIONS = "tg:{00}:resv"
STREAM = "tg:{00}:usage"
EPOCH = "tg:{00}:epoch"
MINUTE = 60_000
PERIOD_END = 4_000_000_000
"""Far away: a key that expires a week after it is still there when it is looked at."""


@dataclass(frozen=True)
class Ask:
    """One admission. Windows are (key, limit, length in ms), quotas (key, limit or -1, quantity)."""

    windows: list[tuple[str, int, int]] = field(default_factory=list)
    quotas: list[tuple[str, int, int]] = field(default_factory=list)
    marker: str | None = None
    shadow: bool = False

    def call(self, event_id: str) -> tuple[list[str], list[Any]]:
        keys = [RESERVATIONS, *(w[0] for w in self.windows), *(q[0] for q in self.quotas)]
        keys += [self.marker] if self.marker else []
        keys.append(EPOCH)
        values: list[Any] = [
            event_id,
            "{}",
            len(self.windows),
            len(self.quotas),
            (1 if self.marker else 0) + 2 * self.shadow,
        ]
        for _, limit, length in self.windows:
            values += [limit, length]
        for _, limit, quantity in self.quotas:
            values += [limit, quantity, PERIOD_END]
        return keys, values


def _replaced(script: str, what: str, by: str) -> str:
    assert script.count(what) == 1, f"the script no longer says {what}"
    return script.replace(what, by)


class Scripts:
    """Admits and settles on a real Redis."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self._admit = self.redis.register_script(ADMIT)
        self._settle = self.redis.register_script(SETTLE)
        self._count = 0

    def close(self) -> None:
        self.redis.close()

    def admit(self, ask: Ask, event_id: str | None = None) -> list[int]:
        self._count += 1
        keys, values = ask.call(event_id or f"{self._count:032x}")
        reply: list[int] = self._admit(keys=keys, args=values)
        return reply

    def settle(self, *entries: tuple[str, str, dict[str, int]]) -> int:
        """Entries are (event id, event or '', corrections by key)."""
        keys: list[str] = []
        values: list[Any] = []
        for event_id, event, corrections in entries:
            keys += [RESERVATIONS, STREAM, *corrections]
            values += [event_id, event, len(corrections), *corrections.values()]
        reply: int = self._settle(keys=keys, args=values)
        return reply

    def everything(self) -> dict[bytes, Any]:
        """All keys with their content."""
        read = {
            b"list": lambda key: self.redis.lrange(key, 0, -1),
            b"string": self.redis.get,
            b"hash": self.redis.hgetall,
            b"stream": lambda key: [fields for _, fields in self.redis.xrange(key)],
        }
        bookkeeping = (b"tg:run", b":epoch")
        names = [key for key in self.redis.scan_iter() if not key.endswith(bookkeeping)]
        return {key: read[self.redis.type(key)](key) for key in names}

    def forget(self) -> None:
        """Empty Redis, and say that what is in it is complete."""
        self.redis.flushall()
        trust(self.redis)


class ClockedScripts(Scripts):
    """The same, but time is `at` (Unix ms) and lists expire by it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        script = _replaced(ADMIT, "call('TIME')", "{redis.call('GET', 'now:s'), redis.call('GET', 'now:us')}")
        script = _replaced(
            script, "call('PEXPIRE', key, 2 * length)", "redis.call('SET', 'expiry:' .. key, now + 2 * length)"
        )
        self._admit = self.redis.register_script(script)

    def admit_at(self, at: int, ask: Ask) -> list[int]:
        pipe = self.redis.pipeline()
        pipe.mset({"now:s": at // 1000, "now:us": at % 1000 * 1000})
        pipe.mget([f"expiry:{key}" for key, *_ in ask.windows] or ["none"])
        expiries = pipe.execute()[1]
        for (key, *_), expiry in zip(ask.windows, expiries, strict=False):
            if expiry is not None and at >= int(expiry):
                self.redis.delete(key, f"expiry:{key}")
        return self.admit(ask)
