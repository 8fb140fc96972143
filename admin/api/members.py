"""/api/v1/members and /api/v1/invitations: people of the caller's project. For sessions: no key manages people."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from admin.accounts import members
from admin.accounts.members import Invitation, Member
from admin.api import pages
from admin.api.call import Body, Call, Denied, Endpoint, Reply, not_found
from admin.api.resources import check_match, tagged, validated
from admin.permissions import TABLE, Permission, Role, may_grant
from admin.projects import rows as projects
from ledger import problems
from ledger.specs import Mailbox


class NewInvitation(BaseModel):
    """Who is invited as what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    email: Mailbox
    role: Role


class NewRole(BaseModel):
    """What a member shall be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role


def _member(member: Member) -> dict[str, Any]:
    return {
        "id": member.account_id,
        "email": member.email,
        "role": member.role,
        "created_at": member.created_at,
        "last_signed_in_at": member.last_signed_in_at,
    }


def as_invited(invitation: Invitation) -> dict[str, Any]:
    """An invitation as it is shown."""
    return {
        "id": invitation.id,
        "email": invitation.email,
        "role": invitation.role,
        "created_at": invitation.created_at,
        "expires_at": invitation.expires_at,
    }


async def _found(call: Call) -> Member:
    member = await members.get_member(call.connection, call.caller.project_id, call.params["id"])
    if member is None:
        raise not_found("member", call.params["id"])
    return member


def _may_grant(call: Call, *roles: Role) -> None:
    """Raises Denied if one of the roles is not the caller's to give or take."""
    own = next((role for role in Role if TABLE[role] == call.caller.grants), None)
    if own is None or not all(may_grant(own, role) for role in roles):
        raise Denied(problems.FORBIDDEN, "Only owners make, change and remove owners.")


async def list_(call: Call) -> Reply:
    """All members of the project."""
    found = await members.list_members(call.connection, call.caller.project_id)
    return pages.part(call.query, found, lambda member: member.account_id, _member)


async def get(call: Call) -> Reply:
    """One member, with its ETag."""
    return tagged(_member(await _found(call)))


async def update(call: Call) -> Reply:
    """Another role for a member."""
    wanted, member = validated(NewRole, call.body), await _found(call)
    _may_grant(call, member.role, wanted.role)
    check_match(call, _member(member))
    await members.set_role(call.connection, call.caller.project_id, member, wanted.role, actor=call.caller.actor)
    return tagged(_member(await _found(call)))


async def remove(call: Call) -> Reply:
    """Somebody out of the project."""
    member = await _found(call)
    _may_grant(call, member.role)
    check_match(call, _member(member))
    await members.remove(call.connection, call.caller.project_id, member, actor=call.caller.actor)
    return Reply(status=204)


async def invitations(call: Call) -> Reply:
    """The open invitations."""
    found = await members.invitations_to(call.connection, call.caller.project_id)
    return pages.part(call.query, found, lambda one: one.id, as_invited)


async def invite(call: Call) -> Reply:
    """Invite an address; a mail tells it."""
    wanted = validated(NewInvitation, call.body)
    _may_grant(call, wanted.role)
    project = await projects.get(call.connection, call.caller.project_id)
    assert project is not None
    assert call.caller.session is not None  # no key is granted this
    email, actor = wanted.email.lower(), call.caller.actor
    by = call.caller.session.email
    await members.invite(call.connection, project.id, project.name, email, wanted.role, actor=actor, by=by)
    found = await members.invitations_to(call.connection, project.id)
    made = next(one for one in found if one.email == email)
    return Reply(as_invited(made), 201, f"/api/v1/invitations/{made.id}")


async def withdraw(call: Call) -> Reply:
    """Take an invitation back."""
    for one in await members.invitations_to(call.connection, call.caller.project_id):
        if one.id == call.params["id"]:
            await members.withdraw(call.connection, one, actor=call.caller.actor)
            return Reply(status=204)
    raise not_found("invitation", call.params["id"])


_READ, _WRITE = Permission.MEMBERS_READ, Permission.MEMBERS_WRITE
ENDPOINTS: Final = (
    Endpoint("GET", "/api/v1/members", list_, _READ, query=pages.QUERY),
    Endpoint("GET", "/api/v1/members/{id}", get, _READ),
    Endpoint("PATCH", "/api/v1/members/{id}", update, _WRITE, body=Body.JSON, model=NewRole, writes=True, matches=True),
    Endpoint("DELETE", "/api/v1/members/{id}", remove, _WRITE, writes=True, matches=True),
    Endpoint("GET", "/api/v1/invitations", invitations, _WRITE, query=pages.QUERY),
    Endpoint(
        "POST",
        "/api/v1/invitations",
        invite,
        _WRITE,
        body=Body.JSON,
        model=NewInvitation,
        writes=True,
        creates=True,
    ),
    Endpoint("DELETE", "/api/v1/invitations/{id}", withdraw, _WRITE, writes=True),
)
