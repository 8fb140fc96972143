"""What handlers work with: who calls, what for, and what to answer. Handlers are plain functions of a Call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import asyncpg
from pydantic import BaseModel

from admin.accounts.sessions import Session
from admin.declare import Fault
from admin.nouns import Scope
from admin.permissions import Permission
from ledger import problems
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import KeyKind, Mode
from ledger.problems import Problem
from ledger.vault import Vault


class Body(Enum):
    """What a request must bring."""

    NONE = "none"
    JSON = "json"
    OPTIONAL_JSON = "optional json"
    DECLARATION = "declaration"
    """YAML or JSON; parsed to a ledger.specs.Declaration."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is behind a request: a key, or somebody's session. `actor` is what the audit log says.

    `kind` and `key_id` are None for a session, `session` is for a key.
    """

    actor: str
    scope: Scope
    grants: frozenset[Permission]
    kind: KeyKind | None = None
    key_id: str | None = None
    session: Session | None = None

    @property
    def project_id(self) -> str:
        return self.scope.project_id

    @property
    def mode(self) -> Mode:
        return self.scope.mode

    @property
    def is_platform(self) -> bool:
        """True for the operator's own project, whose secret keys administer all others."""
        return self.scope.project_id == PLATFORM_PROJECT_ID


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request. `body` is parsed as the endpoint's `body` says, {} or None where there is none."""

    connection: asyncpg.Connection
    caller: Caller
    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    if_match: str | None = None
    """The If-Match field: what the caller has read."""
    vault: Vault | None = None
    """Seals the secrets in what is written."""

    @property
    def scope(self) -> Scope:
        """Where the caller's objects are, and what seals their secrets."""
        return replace(self.caller.scope, vault=self.vault)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `data` as JSON, or `text` of `content_type`. `is_secret`: it shows a key, so it is never kept."""

    data: Any = None
    status: int = 200
    location: str | None = None
    is_secret: bool = False
    text: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/yaml"


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method and path, and who may use it how.

    `needs` is the permission that the caller must have,
    `writes` runs it in a transaction, `creates` makes it honour Idempotency-Key, `query` names the parameters it takes.
    """

    method: str
    path: str
    run: Handler
    needs: Permission
    body: Body = Body.NONE
    model: type[BaseModel] | None = None
    """What a JSON body is checked with; for the description of the API."""
    shows: type[BaseModel] | None = None
    """What its answer has the fields of, with an id (a list: what its data have); for the description of the API."""
    writes: bool = False
    creates: bool = False
    matches: bool = False
    """It honours If-Match with the ETag that GET of the same path answers."""
    query: frozenset[str] = frozenset()
    kinds: frozenset[KeyKind] = frozenset((KeyKind.SECRET,))
    platform_only: bool = False
    is_browser_safe: bool = False
    """Pages of any origin may call it (CORS); which key they may use is the key's own affair."""
    produces: str = "application/json"
    """The type of its answers, for the description of the API."""


class Denied(Exception):
    """The answer is a problem. `detail` is public, None for the catalogue's own."""

    def __init__(
        self,
        problem: Problem,
        detail: str | None = None,
        *,
        errors: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


def invalid(field_name: str, message: str) -> Denied:
    """A 422 about one field."""
    return Denied(problems.INVALID, f"{field_name}: {message}", errors=[Fault(None, None, field_name, message)])


def not_found(noun: str, object_id: str) -> Denied:
    """A 404 for what does not exist, or not for this caller."""
    return Denied(problems.NOT_FOUND, f"There is no {noun} {object_id!r:.80} here.")


def is_storable(text: str) -> bool:
    """True if PostgreSQL can be asked about a text: it knows neither NUL nor half a surrogate pair. Pure."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A query parameter that is true or false; false where it is not given. Raises Denied."""
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise invalid(name, f"expected true or false, got {value!r:.40}")
    return value == "true"
