"""Projects: all of mine, a new one, from one to another, test to live, renamed, deleted; and my sessions."""

from __future__ import annotations

from typing import Final

from admin.accounts import members, sessions
from admin.api import projects
from admin.api.call import Denied
from admin.api.resources import validated
from admin.permissions import Permission
from admin.projects import rows
from admin.promote import preview, promote
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong
from admin.web.serve import safe_next
from ledger import problems
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import Mode
from ledger.specs import ProjectSpec


async def list_(view: View) -> Answer:
    if not view.projects:
        return Redirect("/dashboard/projects/new")
    invitations = await members.invitations_for(view.connection, view.known.email)
    return Html("projects.html", {"invitations": invitations})


async def new(view: View) -> Answer:
    return Html("project_new.html")


async def create(view: View) -> Answer:
    spec = validated(ProjectSpec, {"name": view.text("name"), "kind": view.text("kind", "saas")})
    created = await projects.create_owned(view.connection, view.known, spec)
    return Redirect("/dashboard/start", f"{created.name} is made. It is in test mode.")


async def switch_page(view: View) -> Answer:
    return Redirect("/dashboard/projects")


async def switch(view: View) -> Answer:
    """Turn this session to another project or mode."""
    project = next((one for one in view.projects if one.id == view.text("project")), None)
    if project is None:
        raise Denied(problems.NOT_FOUND, "You are no member of that project.")
    mode = Mode(view.text("mode")) if view.text("mode") in (Mode.TEST, Mode.LIVE) else view.known.mode
    await sessions.turn_to(view.connection, view.known, project.id, mode)
    back = safe_next(view.text("back"))
    is_list = len(back.strip("/").split("/")) <= 2  # an object of one project is not in the other
    return Redirect(back if is_list else "/dashboard")


async def settings(view: View) -> Answer:
    return Html("settings.html", {"is_platform": view.here.id == PLATFORM_PROJECT_ID})


async def rename(view: View) -> Answer:
    spec = validated(ProjectSpec, {"name": view.text("name"), "kind": view.here.kind})
    await rows.rename(view.connection, view.here.id, spec.name, actor=view.actor)
    return Redirect("/dashboard/settings", "The project has a new name.")


async def promote_page(view: View) -> Answer:
    return Html("promote.html", {"preview": await preview(view.connection, view.here.id), "made": None})


async def promote_(view: View) -> Answer:
    """Test becomes live: tiers are copied, live keys are made and shown once."""
    made = await promote(view.connection, view.here.id, actor=view.actor)
    await sessions.turn_to(view.connection, view.known, view.here.id, Mode.LIVE)
    return Html("promote.html", {"preview": None, "made": made})


async def delete_page(view: View) -> Answer:
    return Html("project_delete.html", {"counts": await rows.counts(view.connection, view.here.id)})


async def delete(view: View) -> Answer:
    if view.here.id == PLATFORM_PROJECT_ID:
        raise Wrong(form="The platform's own project stays.")
    if view.text("name") != view.here.name:
        raise Wrong(name="this is not the project's name")
    await rows.delete(view.connection, view.here.id, actor=view.actor)
    return Redirect("/dashboard/projects", f"{view.here.name} is deleted.")


async def account(view: View) -> Answer:
    found = await sessions.of_account(view.connection, view.known.account_id)
    return Html("account.html", {"sessions": [(session, device(session.user_agent)) for session in found]})


_BROWSERS: Final = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("Firefox", "Firefox"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
)
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)


def device(agent: str) -> str:
    """Chrome on Linux, of what a browser says it is; its own words where they are others."""
    browser = next((name for mark, name in _BROWSERS if mark in agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in agent), None)
    return f"{browser} on {system}" if browser and system else agent[:60] or "Unknown"


async def end(view: View) -> Answer:
    if view.text("do") == "others":
        await sessions.end_others(view.connection, view.known)
        return Redirect("/dashboard/account", "Signed out everywhere but here.")
    if not await sessions.end(view.connection, view.known.account_id, view.text("id")):
        raise Wrong(form="That session is over already.")
    return Redirect("/dashboard/account", "That device is signed out.")


PAGES: Final = (
    Page("/dashboard/projects", list_),
    Page("/dashboard/projects/new", new, act=create),
    Page("/dashboard/switch", switch_page, act=switch),
    Page("/dashboard/settings", settings, Permission.PROJECT_READ, rename, Permission.PROJECT_UPDATE),
    Page(
        "/dashboard/settings/promote",
        promote_page,
        Permission.PROJECT_READ,
        promote_,
        Permission.PROJECT_PROMOTE,
        once=True,
    ),
    Page("/dashboard/settings/delete", delete_page, Permission.PROJECT_DELETE, delete, Permission.PROJECT_DELETE),
    Page("/dashboard/account", account, act=end),
)
