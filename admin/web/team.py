"""/dashboard/team: who is in the project, as what, and who is invited."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from admin.accounts import members
from admin.accounts.members import Member
from admin.api.call import Denied, not_found
from admin.api.resources import validated
from admin.permissions import Permission, Role, may_grant
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong
from ledger import problems
from ledger.specs import Mailbox

ROLES: Final = (
    (Role.VIEWER, "Viewer", "Sees usage, customers, tiers, routes and the team."),
    (Role.MEMBER, "Member", "Also makes customers, and keys that do not administer; sees the audit log."),
    (Role.ADMIN, "Admin", "Also changes tiers, routes, billing and the team."),
    (Role.OWNER, "Owner", "Everything, and may delete the project."),
)


class Invitation(BaseModel):
    """Who is invited as what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    email: Mailbox
    role: Role


async def list_(view: View) -> Answer:
    may_write = view.may(Permission.MEMBERS_WRITE)
    return Html(
        "team.html",
        {
            "members": await members.list_members(view.connection, view.here.id),
            "invitations": await members.invitations_to(view.connection, view.here.id) if may_write else [],
            "roles": ROLES,
        },
    )


async def invite(view: View) -> Answer:
    """Invite somebody, or withdraw an invitation."""
    if view.text("do") == "withdraw":
        found = await members.invitations_to(view.connection, view.here.id)
        for invitation in found:
            if invitation.id == view.text("id"):
                await members.withdraw(view.connection, invitation, actor=view.actor)
        return Redirect("/dashboard/team", "The invitation is withdrawn.")
    wanted = validated(Invitation, {"email": view.text("email"), "role": view.text("role")})
    if not may_grant(view.here.role, wanted.role):
        raise Wrong(role="only owners make owners")
    await members.invite(
        view.connection,
        view.here.id,
        view.here.name,
        wanted.email,
        wanted.role,
        actor=view.actor,
        by=view.known.email,
    )
    return Redirect("/dashboard/team", f"{wanted.email} is invited and gets a mail.")


async def _found(view: View) -> Member:
    member = await members.get_member(view.connection, view.here.id, view.params["id"])
    if member is None:
        raise not_found("member", view.params["id"])
    return member


async def edit(view: View) -> Answer:
    return Html("member.html", {"member": await _found(view), "roles": ROLES})


async def change(view: View) -> Answer:
    member = await _found(view)
    if not may_grant(view.here.role, member.role):
        raise Denied(problems.FORBIDDEN, "Only owners change owners.")
    if view.text("do") == "remove":
        await members.remove(view.connection, view.here.id, member, actor=view.actor)
        return Redirect("/dashboard/team", f"{member.email} is no member any more.")
    if view.text("role") not in list(Role):
        raise Wrong(role="choose one of these")
    role = Role(view.text("role"))
    if not may_grant(view.here.role, role):
        raise Wrong(role="only owners make owners")
    await members.set_role(view.connection, view.here.id, member, role, actor=view.actor)
    return Redirect("/dashboard/team", f"{member.email} is {role} now.")


PAGES: Final = (
    Page("/dashboard/team", list_, Permission.MEMBERS_READ, invite, Permission.MEMBERS_WRITE),
    Page("/dashboard/team/{id}", edit, Permission.MEMBERS_READ, change, Permission.MEMBERS_WRITE),
)
