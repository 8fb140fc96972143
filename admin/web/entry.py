"""Coming in and going out: /login, the button behind a link, /logout, the operator's claim, invitations, /dev/mail."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from admin.accounts import members, sessions, sign_in
from admin.api.auth import ASKED, MagicLinkRequest, signed_in, too_many
from admin.api.call import Denied
from admin.api.resources import validated
from admin.site import LOOPBACK
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong
from ledger import problems, sql
from ledger.keys import Mode
from ledger.mail.post import VERIFY

_SQL = sql.load("admin.web", "entry.sql")


async def login(view: View) -> Answer:
    if view.session is not None:
        return Redirect("/dashboard")
    email = view.request.query.get("email", "")[:254]
    return Html("login.html", {"email": email, "shows_mail": view.site.shows_mail})


async def ask(view: View) -> Answer:
    """The same page whether or not the address is known."""
    wanted = validated(MagicLinkRequest, {"email": view.text("email")})
    try:
        await sign_in.ask_for_link(view.connection, wanted.email, view.address)
    except sign_in.Limited as limited:
        raise Wrong(email=f"too many links were asked for; wait {-(-limited.wait_s // 60)} minutes") from None
    return Html("sent.html", {"email": wanted.email, "asked": ASKED, "shows_mail": view.site.shows_mail})


async def confirm(view: View) -> Answer:
    """A button. Opening a link signs nobody in: programs that read mail open links too."""
    return Html("confirm.html", {"token": view.request.query.get("token", "")[:200]})


async def enter(view: View) -> Answer:
    try:
        made = await signed_in(view.connection, view.site, view.request, view.text("token"))
    except Denied as denied:
        if denied.problem is problems.LINK_INVALID:
            return Html("link_invalid.html", {}, status=401)
        return Html("link_invalid.html", {"detail": denied.detail}, denied.problem.status, denied.headers)
    session = await sessions.find(view.connection, made.token, view.address)
    if session is not None and await members.invitations_for(view.connection, session.email):
        return Redirect("/dashboard/invitations", session_token=made.token)
    is_new = session is None or session.project_id is None
    return Redirect("/dashboard/projects/new" if is_new else "/dashboard", session_token=made.token)


async def leave_page(view: View) -> Answer:
    return Redirect("/dashboard" if view.session else "/login")


async def leave(view: View) -> Answer:
    if cookie := view.request.cookies.get(view.site.session_cookie):
        await sessions.end_token(view.connection, cookie)
    return Redirect("/login", "You are signed out.", session_token="")


async def claim_page(view: View) -> Answer:
    return Html("claim.html")


async def claim(view: View) -> Answer:
    try:
        await sign_in.claim(view.connection, view.known.account_id, view.text("token"), view.address)
    except sign_in.Limited as limited:
        raise Wrong(token=too_many(limited).detail or "") from None
    return Redirect("/operator", "You are the operator of this installation.")


async def invitations_page(view: View) -> Answer:
    found = await members.invitations_for(view.connection, view.known.email)
    return Html("invitations.html", {"invitations": found})


async def answer_invitation(view: View) -> Answer:
    found = await members.invitations_for(view.connection, view.known.email)
    invitation = next((one for one in found if one.id == view.text("id")), None)
    if invitation is None:
        raise Wrong(form="This invitation is over: it was withdrawn, or is older than 7 days.")
    if view.text("do") == "decline":
        await members.withdraw(view.connection, invitation, actor=view.actor)
        return Redirect("/dashboard", f"You declined to join {invitation.project}.")
    await members.accept(view.connection, invitation, view.known.account_id)
    await sessions.turn_to(view.connection, view.known, invitation.project_id, Mode.TEST)
    return Redirect("/dashboard", f"Welcome to {invitation.project}.")


async def dev_mail(view: View) -> Answer:
    """All mail, in development and on this machine alone: whoever reads it can sign in as anybody."""
    if not view.site.shows_mail or view.address not in LOOPBACK:
        raise web.HTTPNotFound
    rows = await view.connection.fetch(_SQL["mails"])
    return Html("dev_mail.html", {"mails": [{**row, "link": _link(row["body"])} for row in rows]})


def _link(body: str) -> str | None:
    """The path of the sign-in link in a mail; relative, so that a page of ours only links to us."""
    _, found, rest = body.partition(f"{VERIFY}?token=")
    return f"{VERIFY}?token={rest.split()[0]}" if found else None


PAGES: Final = (
    Page("/login", login, act=ask, is_open=True, commits=True),
    Page(VERIFY, confirm, act=enter, is_open=True, commits=True),
    Page("/logout", leave_page, act=leave, is_open=True, commits=True),
    Page("/operator/claim", claim_page, act=claim, commits=True),
    Page("/dashboard/invitations", invitations_page, act=answer_invitation),
    Page("/dev/mail", dev_mail, is_open=True),
)
