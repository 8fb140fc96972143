"""What page modules work with: a page's declaration, one request to it, and what to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import asyncpg
from aiohttp import web
from multidict import MultiDict, MultiDictProxy

from admin.accounts.members import Membership
from admin.accounts.sessions import Session
from admin.api.resources import etag
from admin.declare import Fault
from admin.nouns import Scope
from admin.permissions import Permission, is_allowed
from admin.site import Site
from admin.web.remembered import Remembered
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.vault import Vault

CHANGED: Final = (
    "Somebody changed this while you had it open, so nothing was saved. Reload to see what it is now, or save once more"
    " to put yours in its place."
)

T = TypeVar("T")


class SignIn(Exception):
    """Nobody is signed in; they are sent to /login."""


@dataclass(frozen=True, slots=True)
class View:
    """One request to a page, with who asks.

    `project` is None on pages that are about no project. `form` is what was sent, `errors` what was wrong with it by
    field ("" for the whole). `token` is what forms are bound to (CSRF).
    """

    connection: asyncpg.Connection
    site: Site
    request: web.Request
    token: str
    session: Session | None
    projects: Sequence[Membership]
    project: Membership | None
    vault: Vault | None = None
    remembered: Remembered = field(default_factory=Remembered)
    form: MultiDictProxy[Any] = field(default_factory=lambda: MultiDictProxy(MultiDict()))
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> Session:
        """The session. Raises SignIn."""
        if self.session is None:
            raise SignIn
        return self.session

    @property
    def here(self) -> Membership:
        """The project that the page is about. Raises SignIn, which leads to where there is a choice."""
        if self.project is None:
            raise SignIn
        return self.project

    @property
    def scope(self) -> Scope:
        """Where objects are looked for."""
        return Scope(self.here.id, self.known.mode, self.vault)

    @property
    def actor(self) -> str:
        """What the audit log says."""
        return self.known.actor

    @property
    def params(self) -> Mapping[str, str]:
        """What the path names."""
        return self.request.match_info

    @property
    def address(self) -> str:
        """Where the request comes from."""
        return self.site.address_of(self.request)

    @property
    def is_operator(self) -> bool:
        """True if the account administers the installation."""
        return any(p.id == PLATFORM_PROJECT_ID and is_allowed(p.role, Permission.PLATFORM) for p in self.projects)

    async def figure(self, name: str, find: Callable[..., Awaitable[T]], *args: Any) -> T:
        """`find(connection, scope, *args)`, or what it found a moment ago for the same scope and arguments."""
        key = (name, self.here.id, self.known.mode, *args)
        return await self.remembered.get(key, lambda: find(self.connection, self.scope, *args))

    def may(self, permission: str) -> bool:
        """True if the account's role in the project includes the permission."""
        return self.project is not None and is_allowed(self.project.role, Permission(permission))

    def text(self, name: str, default: str = "") -> str:
        """What a field of the form holds, without spaces around it."""
        value = self.form.get(name, default)
        return value.strip() if isinstance(value, str) else default

    def raw(self, name: str) -> str:
        """What a field holds, as it was sent."""
        value = self.form.get(name, "")
        return value if isinstance(value, str) else ""

    def lines(self, name: str) -> list[str]:
        """The words of a field that takes several, separated by spaces, commas or line ends."""
        return self.text(name).replace(",", " ").split()

    def check_unchanged(self, fields: Mapping[str, Any]) -> None:
        """Raises Wrong if the form was opened on something else than these fields: somebody has changed them since.

        The form carries `etag` of what it showed; it comes back with that of now, so that sending it again is a choice.
        """
        given = self.text("etag")
        if given and given != etag(dict(fields)):
            raise Wrong(form=CHANGED)

    def on(self, connection: asyncpg.Connection, **changes: Any) -> View:
        """The same view on another connection."""
        return replace(self, connection=connection, **changes)


@dataclass(frozen=True, slots=True)
class Html:
    """A page of a template. `headers` come on top of the security headers."""

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    session_token: str | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """See there; `flash` is what the next page says. `session_token` signs the browser in, "" signs it out."""

    path: str
    flash: str = ""
    session_token: str | None = None


Answer = Html | Redirect
Show = Callable[[View], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Page:
    """A path, what it shows, and what its form does.

    `needs` is what one must be allowed to see it, None for pages about no project; `act_needs` to use its form. `is_open`
    pages take no session. `once` makes a form that is sent twice act once. `commits` lets the act commit step by step
    instead of in one transaction, so that failed tries stay noted.
    """

    path: str
    show: Show
    needs: Permission | None = None
    act: Show | None = None
    act_needs: Permission | None = None
    is_open: bool = False
    once: bool = False
    commits: bool = False
    for_operator: bool = False


class Wrong(Exception):
    """What was sent cannot be used: a message for each field ("" for the whole)."""

    def __init__(self, **errors: str) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = {"" if name == "form" else name: message for name, message in errors.items()}


def by_field(faults: Sequence[Fault]) -> dict[str, str]:
    """Faults as messages by the name of the form's field: allowed_origins[0] is allowed_origins."""
    found: dict[str, str] = {}
    for fault in faults:
        name = fault.path.partition("[")[0].partition(".")[0]
        inner = fault.path[len(name) :]
        message = f"{inner.strip('.')}: {fault.message}" if inner and not inner.startswith("[") else fault.message
        found[name] = f"{found[name]}; {message}" if name in found else message
    return found
