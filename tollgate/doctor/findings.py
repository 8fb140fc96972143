"""What was seen, judged. Pure: facts in, findings out.

A *finding* has a name (`redis.eviction`), a status and a sentence; where something is to be done, also what. `fail` means
that money or availability is at risk as it is now; `warn` that it will be, or that it could not be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, urlsplit

_LEAST_POSTGRES: Final = 15
_LEAST_REDIS: Final = (6, 2)
_NARROW: Final = 0.8
_FULL: Final = 0.95
_SKEW_S: Final = (0.5, 5.0)
_LAG_S: Final = (10.0, 120.0)
_EXAMPLES: Final = frozenset(
    (
        "",
        "password",
        "secret",
        "changeme",
        "change-me",
        "postgres",
        "tollgate",
        "redis",
        "admin",
        "example",
        "test",
        "x",
    )
)


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is empty where nothing is to be done."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def ok(name: str, detail: str) -> Finding:
    return Finding(name, Status.OK, detail)


def warn(name: str, detail: str, advice: str) -> Finding:
    return Finding(name, Status.WARN, detail, advice)


def fail(name: str, detail: str, advice: str) -> Finding:
    return Finding(name, Status.FAIL, detail, advice)


def worst(findings: Iterable[Finding]) -> Status:
    """The status of all together."""
    order = list(Status)
    return max((f.status for f in findings), key=order.index, default=Status.OK)


# -- settings


def of_password(name: str, url: str) -> Finding:
    """Whether the password in a server's URL is one that everybody knows."""
    parts = urlsplit(url)
    password = unquote(parts.password or "").lower()
    is_local = (parts.hostname or "") in ("", "localhost", "127.0.0.1", "::1")
    if password in _EXAMPLES:
        what = "no password" if not password else "a password from an example"
        advice = "set one of your own, 20 random characters or more"
        return (warn if is_local else fail)(f"settings.{name}", f"{what} in {name}", advice)
    return ok(f"settings.{name}", f"{name} has a password of its own")


def of_keys(problem: str | None, is_set: bool, stored: int, lost: int, older: int) -> Finding:
    """Whether stored credentials of upstreams can be read: of `stored`, none of the keys opens `lost`, an old one `older`.

    `problem` is why the keys cannot be read.
    """
    name = "settings.encryption_keys"
    if problem is not None:
        return fail(name, problem, "tollgate secrets new-key prints a key")
    if lost:
        detail = f"{lost} of {stored} stored credentials of upstreams cannot be opened: their routes answer 503"
        return fail(name, detail, "add the key that sealed them to encryption_keys, or declare the credentials again")
    if older:
        return warn(
            name, f"{older} of {stored} stored credentials are sealed with an old key", "run tollgate secrets reseal"
        )
    if not is_set:
        return ok(name, "not set, and nothing is stored that would need it")
    return ok(name, f"the newest key opens all {stored} stored credentials" if stored else "set")


# -- PostgreSQL


def of_postgres_version(number: int) -> Finding:
    """`number` as in server_version_num."""
    detail = f"PostgreSQL {number // 10000}.{number % 10000}"
    if number // 10000 < _LEAST_POSTGRES:
        return fail("postgres.version", detail, f"upgrade to {_LEAST_POSTGRES} or newer")
    return ok("postgres.version", detail)


def of_migrations(pending: int, unknown: int) -> Finding:
    """Migrations of this release that are not applied, and applied ones that it does not know."""
    name = "postgres.migrations"
    if pending:
        return fail(name, f"{pending} migrations of this release are not applied", "run tollgate migrate")
    if unknown:
        return warn(name, f"the schema has {unknown} migrations of a newer release", "upgrade this release soon")
    return ok(name, "the schema is that of this release")


def of_durability(settings: Mapping[str, str]) -> list[Finding]:
    """`fsync`, `full_page_writes` and `synchronous_commit` as PostgreSQL shows them."""
    found = []
    for name in ("fsync", "full_page_writes"):
        if settings[name] == "off":
            found.append(
                fail(
                    f"postgres.{name}", f"{name} is off: a crash of the machine can ruin the ledger", f"set {name} = on"
                )
            )
        else:
            found.append(ok(f"postgres.{name}", f"{name} is on"))
    mode = settings["synchronous_commit"]
    if mode == "off":
        found.append(
            warn(
                "postgres.synchronous_commit",
                "off by default; the worker sets it on for what it stores, other writes may lose their last moments",
                "set synchronous_commit = on",
            )
        )
    else:
        found.append(ok("postgres.synchronous_commit", f"{mode}: what is acknowledged is on disk"))
    return found


def of_connections(used: int, most: int) -> Finding:
    detail = f"{used} of {most} connections are in use"
    if used > most * _FULL:
        return fail("postgres.connections", detail, "raise max_connections or run fewer processes")
    if used > most * _NARROW:
        return warn("postgres.connections", detail, "raise max_connections or run fewer processes")
    return ok("postgres.connections", detail)


def of_partitions(missing: list[str]) -> Finding:
    """Months around now without a partition for usage."""
    if missing:
        return fail(
            "postgres.partitions", f"no partition for {', '.join(missing)}: usage cannot be stored", "start a worker"
        )
    return ok("postgres.partitions", "this month and the next have their partitions")


def of_dead_letters(count: int, newest: str) -> Finding:
    if count:
        return warn(
            "worker.dead_letters",
            f"{count} entries could not be stored as usage, the newest because of: {newest[:120]}",
            "look at the table dead_letters: this is usage that nobody is billed for",
        )
    return ok("worker.dead_letters", "none")


# -- Redis


def of_redis_version(text: str) -> Finding:
    version = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if version < _LEAST_REDIS:
        return fail("redis.version", f"Redis {text}", "upgrade to Redis or Valkey 6.2 or newer")
    return ok("redis.version", f"Redis {text}")


def of_role(role: str) -> Finding:
    if role != "master":
        return fail("redis.role", f"this is a {role}: it takes no writes", "point redis_url at the primary")
    return ok("redis.role", "primary")


def of_eviction(policy: str | None) -> Finding:
    if policy is None:
        return warn("redis.eviction", "maxmemory-policy cannot be read", "make sure that it is noeviction")
    if policy != "noeviction":
        return fail(
            "redis.eviction",
            f"maxmemory-policy is {policy}: counters and usage that is not stored yet are thrown away when memory is short",
            "set maxmemory-policy noeviction",
        )
    return ok("redis.eviction", "noeviction: nothing is thrown away")


def of_persistence(appendonly: str | None, appendfsync: str | None, last_write: str) -> Finding:
    """What of acknowledged usage survives what, in words (docs/adr/0018-healing.md)."""
    name = "redis.persistence"
    if last_write not in ("ok", ""):
        return fail(name, "the last write to the append-only file failed", "look at its disk: usage is in memory only")
    if appendonly is None or appendfsync is None:
        return warn(name, "the append-only policy cannot be read", "make sure that appendonly is yes")
    if appendonly != "yes":
        return fail(
            name,
            "no append-only file: when Redis ends, usage that is not stored yet is lost, except what gateways that live"
            " sent in the last 5 s; counters are rebuilt from the ledger",
            "set appendonly yes",
        )
    guarantee = {
        "always": "each acknowledged usage event is on disk; not even the loss of the machine loses one",
        "everysec": "a killed Redis loses nothing; with its machine up to the last second goes, which gateways that live"
        " send again (they keep 5 s)",
    }.get(appendfsync)
    if guarantee is None:
        return warn(
            name,
            f"appendfsync {appendfsync}: a killed Redis loses nothing; with its machine goes what the system had not"
            " written, some 30 s, of which gateways send the last 5 s again",
            "set appendfsync everysec or always",
        )
    return ok(name, f"appendfsync {appendfsync}: {guarantee}")


def of_memory(used: int, limit: int, system: int) -> Finding:
    """Bytes; `limit` 0 means none is set, and the machine's memory counts."""
    bound = limit or system
    detail = f"{used >> 20} MiB used" + (f" of {bound >> 20} MiB" if bound else "")
    if bound and used > bound * _FULL:
        return fail("redis.memory", detail, "give Redis more memory: when it is full, requests are refused")
    if bound and used > bound * _NARROW:
        return warn("redis.memory", detail, "give Redis more memory before it is full")
    if not limit:
        return warn("redis.memory", f"{detail}, no maxmemory", "set maxmemory below what the machine has")
    return ok("redis.memory", detail)


def of_latency(median_ms: float, worst_ms: float, deadline_ms: int) -> Finding:
    detail = f"{median_ms:.2f} ms in the middle, {worst_ms:.2f} ms at worst"
    if worst_ms > deadline_ms:
        return fail(
            "redis.latency", f"{detail}: beyond store_deadline_ms ({deadline_ms})", "find out what holds Redis up"
        )
    if median_ms > deadline_ms / 10:
        return warn("redis.latency", detail, "each request waits for it once: bring Redis nearer")
    return ok("redis.latency", detail)


def of_counters(lost: int, shards: int) -> Finding:
    if lost:
        return fail(
            "redis.counters",
            f"the counters of {lost} of {shards} shards are unknown: each route's on_store_failure rules",
            "a worker rebuilds them within seconds; is one running?",
        )
    return ok("redis.counters", "complete")


def of_lag(entries: int, oldest_s: float, groups_missing: int) -> Finding:
    """What waits on the streams to be stored."""
    detail = f"{entries} usage events wait to be stored, the oldest for {oldest_s:.0f} s"
    if entries and (groups_missing or oldest_s > _LAG_S[1]):
        return fail("worker.lag", detail, "is a worker running, and PostgreSQL quick enough?")
    if entries and oldest_s > _LAG_S[0]:
        return warn("worker.lag", detail, "watch whether it shrinks; a second worker shares the work")
    return ok("worker.lag", detail if entries else "nothing waits to be stored")


def of_gateways(alive: int) -> Finding:
    if not alive:
        return warn("gateway.alive", "no gateway process has said anything for 15 s", "start one: tollgate gateway")
    return ok("gateway.alive", f"{alive} gateway processes")


# -- disk and clocks


def of_spool(problem: str | None, free: int, wanted: int) -> Finding:
    """`free` and `wanted` are bytes; `problem` is why the folder cannot be used."""
    if problem is not None:
        return fail("spool.folder", problem, "set gateway.spool_dir to a folder that can be written and stays")
    if free < wanted:
        return warn(
            "spool.folder", f"{free >> 20} MiB free, it may grow to {wanted >> 20} MiB", "make room or lower the bound"
        )
    return ok("spool.folder", f"{free >> 20} MiB free, it may grow to {wanted >> 20} MiB")


def of_leftovers(segments: int, damaged: int) -> Finding:
    if damaged:
        return warn("spool.content", f"{damaged} damaged pieces were put aside", "look at them: they may be usage")
    if segments:
        return warn("spool.content", f"{segments} segments wait to be replayed", "a running gateway replays them")
    return ok("spool.content", "empty")


def of_skew(whose: str, seconds: float) -> Finding:
    detail = f"{whose} is {abs(seconds):.3f} s {'ahead of' if seconds > 0 else 'behind'} this machine"
    if abs(seconds) > _SKEW_S[1]:
        return fail(f"clock.{whose}", detail, "synchronise the clocks (NTP): periods and minutes depend on them")
    if abs(seconds) > _SKEW_S[0]:
        return warn(f"clock.{whose}", detail, "synchronise the clocks (NTP)")
    return ok(f"clock.{whose}", detail)


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """The report for programs."""
    found = list(findings)
    return {
        "status": worst(found).value,
        "checks": [
            {"name": f.name, "status": f.status.value, "detail": f.detail, "advice": f.advice or None} for f in found
        ],
    }


def as_text(findings: Iterable[Finding]) -> str:
    """The report for people: one line each, and what to do below it."""
    lines = []
    found = list(findings)
    width = max((len(f.name) for f in found), default=0)
    for f in found:
        lines.append(f"{f.status.value:<5} {f.name:<{width}}  {f.detail}")
        if f.advice:
            lines.append(f"{'':<5} {'':<{width}}  → {f.advice}")
    counts = {status: sum(f.status is status for f in found) for status in Status}
    lines.append(f"{counts[Status.OK]} fine, {counts[Status.WARN]} to watch, {counts[Status.FAIL]} wrong")
    return "\n".join(lines)
