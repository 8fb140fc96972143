"""The life of a request to a page: who is it, may they, do it, show it.

A form acts in one transaction. What it could not do is shown on the page it came from, with what was typed and what is
wrong beside each field. Forms carry the CSRF token and the project and mode they were made for, so that a second tab in
another project changes nothing by accident.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from aiohttp import web
from multidict import MultiDictProxy

from admin.accounts import members, sessions
from admin.accounts.sessions import Session
from admin.api.auth import drop_session, set_session
from admin.api.call import Denied, is_storable
from admin.changes import Refused, Unfit
from admin.declare.faults import path_text
from admin.observe import ID
from admin.site import Site
from admin.store import Store, StoreUnavailable
from admin.web.page import Answer, Html, Page, Redirect, SignIn, View, Wrong, by_field
from admin.web.remembered import Remembered
from admin.web.render import Renderer
from ledger import problems, sql
from ledger.keys import Mode

WHO: Final = web.RequestKey("account", str)
"""Which account made a request, once that is known; for the log."""

_SQL = sql.load("admin.web", "serve.sql")
_NEXT = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]{0,500}")
_FORM_COOKIE_S: Final = 86_400
_FLASH_S: Final = 60
_FORM_TIMEOUT_S: Final = 30.0
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_UNFORESEEN: Final = (
    "It is not your doing, and it is written down. Whoever runs this finds it by the id of the request."
)
_TOLD: Final = {
    404: ("There is nothing here", "The address may be mistyped, or what was here is gone."),
    405: ("That cannot be done here", "This address shows something, or takes something, and you asked for the other."),
    413: ("That is too much at once", "Send less, or use the API."),
}
"""What pages say where a person came to the wrong place."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Web:
    """What all pages need."""

    store: Store
    site: Site
    renderer: Renderer
    remembered: Remembered = field(default_factory=Remembered)


def handler(page: Page, pages: Web) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The page as aiohttp wants it, GET and POST."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await serve(page, pages, request)

    return handle


async def serve(page: Page, pages: Web, request: web.Request) -> web.StreamResponse:
    """Answer one request with a page; errors are pages too."""
    cookie = request.cookies.get(pages.site.session_cookie)
    token = cookie or request.cookies.get(pages.site.form_cookie) or secrets.token_urlsafe(16)
    try:
        form = await _form(pages.site, request, token)
        if form is None:
            async with pages.store.reading() as connection:
                view = await _view(page, pages, request, connection, cookie, token, None)
                answer = await page.show(view)
        else:
            answer, view = await _act(page, pages, request, cookie, token, form)
    except SignIn:
        return _redirect(pages, Redirect("/login"))
    except Exception as error:  # noqa: BLE001 - every failure becomes a page, and what nobody foresaw is logged there
        return error_page(pages, request, error)
    return _respond(pages, request, answer, view, token, cookie)


async def _view(
    page: Page,
    pages: Web,
    request: web.Request,
    connection: Any,
    cookie: str | None,
    token: str,
    form: MultiDictProxy[Any] | None,
) -> View:
    """Who asks, and in which project. Raises SignIn, Denied."""
    session: Session | None = None
    if cookie is not None:
        session = await sessions.find(connection, cookie, pages.site.address_of(request))
    if session is None:
        if not page.is_open:
            raise SignIn
        view = View(connection, pages.site, request, token, None, (), None)
        return view if form is None else view.on(connection, form=form)
    request[WHO] = session.account_id
    memberships = await members.projects_of(connection, session.account_id)
    wanted, mode = session.project_id, session.mode
    if form is not None and (named := form.get("in")):
        wanted, _, of = str(named).partition(".")
        mode = Mode.LIVE if of == Mode.LIVE else Mode.TEST
    project = next((membership for membership in memberships if membership.id == wanted), None)
    if form is not None and form.get("in") and project is None:
        raise Denied(problems.NOT_FOUND, "You are no member of the project that this form was made for.")
    session = sessions.in_mode(session, mode)
    view = View(
        connection, pages.site, request, token, session, memberships, project, pages.store.vault, pages.remembered
    )
    if form is not None:
        view = view.on(connection, form=form)
    needs = page.needs if form is None else page.act_needs or page.needs
    if page.for_operator and not view.is_operator:
        raise Denied(problems.NOT_FOUND)
    if needs is not None and not page.for_operator:
        if project is None:
            raise _Choose
        if not view.may(needs):
            raise Denied(problems.FORBIDDEN, f"Your role in {project.name}, {project.role}, does not include this.")
    return view


class _Choose(Exception):
    """There is no project to show the page for."""


async def _act(
    page: Page, pages: Web, request: web.Request, cookie: str | None, token: str, form: MultiDictProxy[Any]
) -> tuple[Answer, View]:
    if page.act is None:
        raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
    try:
        async with pages.store.reading() if page.commits else pages.store.writing() as connection:
            view = await _view(page, pages, request, connection, cookie, token, form)
            if page.once and not await _is_first(view):
                return Redirect(request.path, "That was done already."), view
            return await page.act(view), view
    except (Wrong, Refused, Denied) as error:
        if isinstance(error, Denied) and error.problem.status in (401, 403, 404) and not error.errors:
            raise
        errors, status = _errors(error)
    async with pages.store.reading() as connection:
        view = (await _view(page, pages, request, connection, cookie, token, form)).on(connection, errors=errors)
        answer = await page.show(view)
    if isinstance(answer, Html):
        answer = Html(answer.template, answer.context, status, answer.headers)
    return answer, view


def _errors(error: Wrong | Refused | Denied) -> tuple[dict[str, str], int]:
    """What was wrong, by field, and the status that says so."""
    if isinstance(error, Wrong):
        return error.errors, 422
    if isinstance(error, Refused):
        name = path_text(error.path).partition("[")[0].partition(".")[0]
        status = 422 if isinstance(error, Unfit) else 409
        return {name: error.message[:1].upper() + error.message[1:]}, status
    return by_field(error.errors) or {"": error.detail or error.problem.detail}, error.problem.status


async def _is_first(view: View) -> bool:
    """False if this very form was sent before."""
    once = view.text("once")
    if not once or view.project is None:
        return True
    fingerprint = sha256(f"{view.request.path}\n{once}".encode()).digest()
    kept = await view.connection.fetchval(
        _SQL["first"], view.here.id, view.known.mode, f"form:{fingerprint.hex()}", fingerprint
    )
    return kept is not None


async def _form(site: Site, request: web.Request, token: str) -> MultiDictProxy[Any] | None:
    """What was sent; None for a GET. Raises Denied if no page of ours sent it."""
    if not all(map(is_storable, request.query.values())):
        raise Denied(problems.BAD_REQUEST, "The address holds a character that nothing here can.")
    if request.method in ("GET", "HEAD"):
        return None
    if request.content_type not in ("application/x-www-form-urlencoded", "multipart/form-data", ""):
        raise Denied(problems.UNSUPPORTED_MEDIA_TYPE, "Send a form.")
    try:
        async with asyncio.timeout(_FORM_TIMEOUT_S):
            form = await request.post()
    except TimeoutError:
        raise Denied(problems.REQUEST_TIMEOUT) from None
    given = form.get("csrf", "")
    if not site.is_own_page(request) or not isinstance(given, str) or not sessions.is_csrf(token, given):
        raise Denied(problems.CSRF, "This form is too old, or not from a page of ours. Go back, reload, try again.")
    if not all(is_storable(value) for value in form.values() if isinstance(value, str)):
        raise Denied(problems.BAD_REQUEST, "The form holds a character that nothing here can.")
    return form


def _respond(
    pages: Web, request: web.Request, answer: Answer, view: View, token: str, cookie: str | None
) -> web.StreamResponse:
    if isinstance(answer, Redirect):
        return _redirect(pages, answer)
    if answer.session_token is not None:
        token = answer.session_token
    flash_cookie = pages.site.flash_cookie
    context = {
        "view": view,
        "csrf": sessions.csrf_of(token),
        "once": secrets.token_urlsafe(12),
        "flash": _flash(request.cookies.get(flash_cookie)),
        "path": request.path,
        "is_fragment": request.headers.get("HX-Request") == "true",
        **answer.context,
    }
    text = pages.renderer.render(answer.template, context)
    response = web.Response(text=text, status=answer.status, content_type="text/html", headers=answer.headers)
    secure(response)
    if flash_cookie in request.cookies:
        response.del_cookie(flash_cookie, path="/", secure=pages.site.is_secure)
    if answer.session_token is not None:
        set_session(response, pages.site, answer.session_token)
    elif cookie is None and request.cookies.get(pages.site.form_cookie) != token:
        response.set_cookie(
            pages.site.form_cookie,
            token,
            max_age=_FORM_COOKIE_S,
            path="/",
            httponly=True,
            secure=pages.site.is_secure,
            samesite="Lax",
        )
    return response


def secure(response: web.Response) -> web.Response:
    """A page with what browsers may do on it."""
    response.headers["Content-Security-Policy"] = _CSP
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _redirect(pages: Web, answer: Redirect) -> web.Response:
    path = answer.path if _NEXT.fullmatch(answer.path) else "/dashboard"
    response = web.Response(status=303, headers={"Location": path, "Cache-Control": "no-store"})
    if answer.flash:
        packed = base64.urlsafe_b64encode(answer.flash[:500].encode()).decode()
        response.set_cookie(
            pages.site.flash_cookie,
            packed,
            max_age=_FLASH_S,
            path="/",
            httponly=True,
            secure=pages.site.is_secure,
            samesite="Lax",
        )
    if answer.session_token:
        set_session(response, pages.site, answer.session_token)
    elif answer.session_token == "":
        drop_session(response, pages.site)
    return response


def _flash(packed: str | None) -> str:
    try:
        return base64.urlsafe_b64decode((packed or "").encode("ascii")).decode()
    except (ValueError, binascii.Error):
        return ""


def error_page(pages: Web, request: web.Request, error: Exception) -> web.StreamResponse:
    """Whatever went wrong as a page; what nobody foresaw is logged and told without its inside."""
    if isinstance(error, _Choose):
        return _redirect(pages, Redirect("/dashboard/projects"))
    title, detail, status, headers = "Something went wrong here", _UNFORESEEN, 500, {}
    if isinstance(error, Denied) and error.problem is problems.NOT_SIGNED_IN:
        return _redirect(pages, Redirect("/login"))
    if isinstance(error, Denied):
        title, status, headers = error.problem.title, error.problem.status, error.headers
        detail = error.detail or error.problem.detail
        headers.pop("WWW-Authenticate", None)
    elif isinstance(error, StoreUnavailable):
        title, status, headers = "The database does not answer", 503, {"Retry-After": "2"}
        detail = (
            f"{error}. Nothing was changed; try again in a moment."
            if error.is_certain
            else (f"{error}. Whether it was done is not certain: look before you try again.")
        )
    elif isinstance(error, web.HTTPException):
        status = error.status
        title, detail = _TOLD.get(status, (error.reason, "Go back and try something else."))
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    else:
        log.error("a page failed", exc_info=error)
    context = {"title": title, "detail": detail, "status": status, "id": request.get(ID) if status >= 500 else None}
    text = pages.renderer.render("error.html", context)
    response = web.Response(text=text, status=status, content_type="text/html", headers=headers)
    secure(response)
    return response


def safe_next(path: str | None) -> str:
    """Where to go back to: a page of ours, whatever was asked for."""
    return path if path and _NEXT.fullmatch(path) and path.startswith("/dashboard") else "/dashboard"
