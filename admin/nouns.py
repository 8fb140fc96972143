"""What all declared nouns have in common: a scope to live in, a stored form, and the same six functions.

A noun is a module (admin.tiers.rows and its like for customers, issuers, upstreams, routes) that satisfies `Noun`. Names
are identities: an update never renames. Functions that change something return the changes they made, the object's own
last; before it what had to give way (a tier that was the default until now).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, Protocol, TypeVar

import asyncpg
import orjson

from admin.changes import Action, Change, record
from ledger.keys import Mode
from ledger.specs import CustomerSpec, IssuerSpec, RouteSpec, TierSpec, UpstreamSpec
from ledger.vault import Vault

_NEW: Final = "(new)"
S = TypeVar("S", TierSpec, CustomerSpec, IssuerSpec, UpstreamSpec, RouteSpec)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where objects are looked for: one half of one project. Upstreams and routes serve both halves.

    `vault` seals the secrets of what is written there; without one, what has a new secret is refused.
    """

    project_id: str
    mode: Mode
    vault: Vault | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Stored(Generic[S]):
    """An object as it is in the database; `spec` is in the form `normal` gives, `more` are read-only fields as JSON.

    `secret` is the sealed value of its credential, for nobody to see.
    """

    id: str
    created_at: datetime
    spec: S
    more: Mapping[str, Any] = field(default_factory=dict)
    secret: bytes | None = field(default=None, repr=False)


def fields_of(spec: TierSpec | CustomerSpec | IssuerSpec | UpstreamSpec | RouteSpec) -> dict[str, Any]:
    """A spec's fields as JSON. The mode is the scope's, not a field; of a new secret only that it is new."""
    fields = spec.model_dump(mode="json", exclude={"modes", "mode"})
    if isinstance(spec, UpstreamSpec | RouteSpec) and spec.credential is not None and spec.credential.value is not None:
        fields["credential"]["value"] = _NEW
    return fields


def is_same(one: S, other: S) -> bool:
    """True if two specs in normal form say the same. By their JSON, as Python's True equals 1."""
    return orjson.dumps(fields_of(one), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        fields_of(other), option=orjson.OPT_SORT_KEYS
    )


async def note(
    connection: asyncpg.Connection,
    action: Action,
    noun: str,
    scope: Scope,
    object_id: str,
    *,
    before: S | None = None,
    after: S | None = None,
    actor: str,
) -> Change:
    """Record what was done to one object and return it as a Change."""
    named = before if after is None else after
    change = Change(
        action,
        noun,
        str(getattr(named, "external_id", None) or getattr(named, "name", "")),
        object_id,
        scope.project_id,
        scope.mode if hasattr(named, "modes") or hasattr(named, "mode") else None,
        None if before is None else fields_of(before),
        None if after is None else fields_of(after),
    )
    return await record(connection, change, actor=actor)


class Noun(Protocol[S]):
    """The functions of one noun. `page` and `by_name` and `get` read; the others must run inside `store.writing`."""

    @property
    def NOUN(self) -> str:
        """What it is called: tier, customer, issuer, upstream, route."""

    @property
    def IDENTITY(self) -> str:
        """The field that names it in its scope."""

    def normal(self, spec: S, scope: Scope) -> S:
        """The one form of all specs that mean the same in this scope."""

    async def page(
        self, connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None
    ) -> list[Stored[S]]:
        """At most `limit` objects (None: all) with ids below `before`, by descending id."""

    async def get(self, connection: asyncpg.Connection, scope: Scope, object_id: str) -> Stored[S] | None:
        """The object with this id, or None if there is none in this scope."""

    async def by_name(
        self, connection: asyncpg.Connection, scope: Scope, names: list[str] | None = None
    ) -> Mapping[str, Stored[S]]:
        """Those of the scope that have one of these names (None: all), by name."""

    async def create(self, connection: asyncpg.Connection, scope: Scope, spec: S, *, actor: str) -> list[Change]:
        """Make it. Raises Refused where something that exists is in the way."""

    async def update(
        self, connection: asyncpg.Connection, scope: Scope, current: Stored[S], spec: S, *, actor: str
    ) -> list[Change]:
        """Bring it to `spec`; returns [] and writes nothing if it is so already. Raises Refused."""

    async def delete(
        self, connection: asyncpg.Connection, scope: Scope, current: Stored[S], *, actor: str
    ) -> list[Change]:
        """Remove it. Raises Refused while something depends on it."""
