"""/auth: signing in and out, who one is, where one is signed in; and /projects, what one is a member of.

These take a session's cookie, or nothing, and never a key. Pages (admin.web) do the same with forms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import asyncpg
import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from admin.accounts import members, sessions, sign_in
from admin.accounts.members import Invitation
from admin.accounts.sessions import LIFE, NewSession, Session
from admin.api import answers, idempotency, pages, projects
from admin.api.authenticate import check_csrf
from admin.api.call import Denied, Reply, invalid, not_found
from admin.api.members import as_invited
from admin.api.resources import validated
from admin.nouns import Scope
from admin.permissions import TABLE
from admin.site import UNSAFE, Site
from admin.store import Store
from ledger import problems
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import Mode
from ledger.mail.post import VERIFY
from ledger.specs import Mailbox, ProjectSpec

_OF_ACCOUNTS: Final = Scope(PLATFORM_PROJECT_ID, Mode.LIVE)
"""Where answers to people are kept, who may have no project yet."""
_TOKEN_MOST: Final = 200
_BODY_TIMEOUT_S: Final = 30.0
ASKED: Final = "If the address is right, a link to sign in is on its way to it. It works for 15 minutes."
"""The same for every address."""


class MagicLinkRequest(BaseModel):
    """Who wants to sign in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    email: Mailbox


class Token(BaseModel):
    """What a link holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str


@dataclass(frozen=True, slots=True)
class Visit:
    """One request to these. `session` is None for who is not signed in."""

    connection: asyncpg.Connection
    site: Site
    request: web.Request
    session: Session | None
    body: dict[str, Any]

    @property
    def address(self) -> str:
        return self.site.address_of(self.request)

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query

    @property
    def known(self) -> Session:
        """The session. Raises Denied."""
        if self.session is None:
            raise Denied(problems.NOT_SIGNED_IN, headers={"WWW-Authenticate": 'Cookie realm="tollgate"'})
        return self.session


Answer = tuple[Reply, NewSession | None]
Handler = Callable[[Visit], Awaitable[Reply | Answer]]


def too_many(limited: sign_in.Limited) -> Denied:
    """The refusal of one try too many."""
    return Denied(
        problems.TOO_MANY_TRIES, f"Wait {limited.wait_s} seconds.", headers={"Retry-After": str(limited.wait_s)}
    )


def set_session(response: web.StreamResponse, site: Site, token: str) -> None:
    """Let a browser be signed in from this answer on."""
    seconds = int(LIFE.total_seconds())
    response.set_cookie(
        site.session_cookie, token, max_age=seconds, path="/", httponly=True, secure=site.is_secure, samesite="Lax"
    )


def drop_session(response: web.StreamResponse, site: Site) -> None:
    """Let it be signed out."""
    response.del_cookie(site.session_cookie, path="/", httponly=True, secure=site.is_secure, samesite="Lax")


async def magic_link(visit: Visit) -> Reply:
    """Have a sign-in link sent. The answer is the same whether or not the address is known."""
    wanted = validated(MagicLinkRequest, visit.body)
    try:
        await sign_in.ask_for_link(visit.connection, wanted.email, visit.address)
    except sign_in.Limited as limited:
        raise too_many(limited) from None
    return Reply({"message": ASKED}, 202)


async def verify(visit: Visit) -> Answer:
    """Use a sign-in link: sets the cookie of a session that lasts 30 days."""
    token = visit.request.query.get("token") or validated(Token, visit.body).token
    made = await signed_in(visit.connection, visit.site, visit.request, token)
    return Reply({"account": {"id": made.account_id}, "csrfToken": sessions.csrf_of(made.token)}), made


async def signed_in(connection: asyncpg.Connection, site: Site, request: web.Request, token: str) -> NewSession:
    """The session that a link's token gives this browser. Raises Denied."""
    if len(token) > _TOKEN_MOST:
        raise Denied(problems.LINK_INVALID)
    old = request.cookies.get(site.session_cookie)
    agent = request.headers.get("User-Agent", "")
    try:
        made = await sign_in.sign_in(connection, token, site.address_of(request), agent, old)
    except sign_in.Limited as limited:
        raise too_many(limited) from None
    if made is None:
        raise Denied(problems.LINK_INVALID)
    return made


async def logout(visit: Visit) -> Reply:
    """Sign this browser out."""
    if token := visit.request.cookies.get(visit.site.session_cookie):
        await sessions.end_token(visit.connection, token)
    return Reply(status=204)


async def me(visit: Visit) -> Reply:
    """Who is signed in, in which projects, and the token that changes need."""
    session = visit.known
    memberships = await members.projects_of(visit.connection, session.account_id)
    csrf = sessions.csrf_of(visit.request.cookies[visit.site.session_cookie])
    return Reply(
        {
            "account": {"id": session.account_id, "email": session.email},
            "projects": [_membership(membership) for membership in memberships],
            "project": session.project_id,
            "mode": session.mode,
            "isOperator": any(membership.id == PLATFORM_PROJECT_ID for membership in memberships),
            "csrfToken": csrf,
        }
    )


async def list_sessions(visit: Visit) -> Reply:
    """Where one is signed in."""
    found = await sessions.of_account(visit.connection, visit.known.account_id)
    return pages.part(visit.query, found, lambda one: one.id, lambda one: _session(one, visit.known))


async def end_session(visit: Visit) -> Reply:
    """Sign one of them out."""
    session_id = visit.request.match_info["id"]
    if not await sessions.end(visit.connection, visit.known.account_id, session_id):
        raise not_found("session", session_id)
    return Reply(status=204)


async def list_projects(visit: Visit) -> Reply:
    """The projects one is a member of, with one's role."""
    found = await members.projects_of(visit.connection, visit.known.account_id)
    return pages.part(visit.query, found, lambda one: one.id, _membership)


async def list_invitations(visit: Visit) -> Reply:
    """The projects one is invited to."""
    found = await members.invitations_for(visit.connection, visit.known.email)
    return pages.part(visit.query, found, lambda one: one.id, _invitation)


def _invitation(invitation: Invitation) -> dict[str, Any]:
    return {"project": {"id": invitation.project_id, "name": invitation.project}, **as_invited(invitation)}


async def _invited(visit: Visit) -> Invitation:
    wanted = visit.request.match_info["id"]
    found = await members.invitations_for(visit.connection, visit.known.email)
    invitation = next((one for one in found if one.id == wanted), None)
    if invitation is None:
        raise not_found("invitation", wanted)
    return invitation


async def accept_invitation(visit: Visit) -> Reply:
    """Join the project that one is invited to."""
    invitation = await _invited(visit)
    await members.accept(visit.connection, invitation, visit.known.account_id)
    memberships = await members.projects_of(visit.connection, visit.known.account_id)
    return Reply(_membership(next(one for one in memberships if one.id == invitation.project_id)))


async def decline_invitation(visit: Visit) -> Reply:
    """Decline an invitation."""
    await members.withdraw(visit.connection, await _invited(visit), actor=visit.known.actor)
    return Reply(status=204)


async def create_project(visit: Visit) -> Reply:
    """A new project, with oneself as its owner."""
    if unknown := sorted(visit.body.keys() - projects.FIELDS):
        raise invalid(unknown[0], f"unknown field (known: {', '.join(sorted(projects.FIELDS))})")
    spec = validated(ProjectSpec, visit.body)
    created = await projects.create_owned(visit.connection, visit.known, spec)
    return Reply(_membership(created), 201)


def _membership(membership: members.Membership) -> dict[str, Any]:
    return {
        "id": membership.id,
        "name": membership.name,
        "kind": membership.kind,
        "role": membership.role,
        "permissions": sorted(TABLE[membership.role]),
        "createdAt": membership.created_at,
    }


def _session(session: Session, own: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "isThis": session.id == own.id,
        "address": session.address,
        "userAgent": session.user_agent,
        "createdAt": session.created_at,
        "lastSeenAt": session.last_seen_at,
        "expiresAt": session.expires_at,
    }


@dataclass(frozen=True, slots=True)
class AccountEndpoint:
    """A method and path of these.

    `is_open`: it works without a session, and so without its CSRF token. `writes` runs it in one transaction; the others
    commit as they go, so that a failed try stays noted.
    """

    method: str
    path: str
    run: Handler
    is_open: bool = False
    writes: bool = False
    body: type[BaseModel] | None = None
    creates: bool = False
    """It honours Idempotency-Key."""
    query: frozenset[str] = frozenset()


ENDPOINTS: Final = (
    AccountEndpoint("POST", "/auth/magic-link", magic_link, is_open=True, body=MagicLinkRequest),
    AccountEndpoint("GET", VERIFY, verify, is_open=True, query=frozenset(("token",))),
    AccountEndpoint("POST", VERIFY, verify, is_open=True, body=Token),
    AccountEndpoint("POST", "/auth/logout", logout),
    AccountEndpoint("GET", "/auth/me", me),
    AccountEndpoint("GET", "/auth/sessions", list_sessions, query=pages.QUERY),
    AccountEndpoint("DELETE", "/auth/sessions/{id}", end_session),
    AccountEndpoint("GET", "/auth/invitations", list_invitations, query=pages.QUERY),
    AccountEndpoint("POST", "/auth/invitations/{id}/accept", accept_invitation, writes=True),
    AccountEndpoint("DELETE", "/auth/invitations/{id}", decline_invitation, writes=True),
    AccountEndpoint("GET", "/projects", list_projects, query=pages.QUERY),
    AccountEndpoint("POST", "/projects", create_project, writes=True, body=projects.NewProject, creates=True),
)


def handler(
    endpoint: AccountEndpoint, store: Store, site: Site
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The endpoint as aiohttp wants it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await serve(endpoint, store, site, request)

    return handle


async def serve(endpoint: AccountEndpoint, store: Store, site: Site, request: web.Request) -> web.StreamResponse:
    """Answer one request. Raises as admin.api.serve does."""
    token = request.cookies.get(site.session_cookie)
    if request.method in UNSAFE:
        if endpoint.is_open:
            if not site.is_own_page(request):
                raise Denied(problems.CSRF, "A page of another origin sent this.")
        elif token is not None:
            check_csrf(token, request.headers, is_own_page=site.is_own_page(request))
    body = await _body(endpoint, request)
    async with store.writing() if endpoint.writes else store.reading() as c:
        session = None if token is None else await sessions.find(c, token, site.address_of(request))
        found = await _answer(endpoint, Visit(c, site, request, session, body))
    reply, made = found if isinstance(found, tuple) else (found, None)
    response = answers.of_reply(reply)
    if made is not None:
        set_session(response, site, made.token)
    if endpoint.run is logout:
        drop_session(response, site)
    return response


async def _answer(endpoint: AccountEndpoint, visit: Visit) -> Reply | Answer:
    for name in visit.query:
        if name not in endpoint.query:
            raise invalid(name, f"unknown query parameter (known: {', '.join(sorted(endpoint.query)) or 'none'})")
    if not endpoint.creates:
        return await endpoint.run(visit)
    given = idempotency.checked(visit.request.headers.get(idempotency.HEADER))
    key = given and f"account:{sha256(f'{visit.known.account_id} {given}'.encode()).hexdigest()}"

    async def run() -> Reply:
        reply = await endpoint.run(visit)
        assert isinstance(reply, Reply)  # only signing in gives more
        return reply

    target = f"{endpoint.method} {endpoint.path}"
    return await idempotency.once(visit.connection, _OF_ACCOUNTS, key, target, visit.body, run)


async def _body(endpoint: AccountEndpoint, request: web.Request) -> dict[str, Any]:
    if endpoint.body is None:
        return {}
    if request.content_type != "application/json":
        raise Denied(problems.UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json.")
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            parsed = orjson.loads(await request.read())
    except TimeoutError:
        raise Denied(problems.REQUEST_TIMEOUT) from None
    except orjson.JSONDecodeError as error:
        raise Denied(problems.BAD_REQUEST, f"The body is not JSON: {error}.") from None
    if not isinstance(parsed, dict):
        raise Denied(problems.INVALID, "The body must be a JSON object.")
    return parsed
