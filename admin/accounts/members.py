"""Members of projects and the invitations that lead to them. A project always keeps an owner."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from admin.changes import Action, Change, Refused, record
from admin.permissions import Role
from ledger import ids, sql
from ledger.mail.letters import Kind, Letter, queue

INVITATIONS_MOST: Final = 200

_SQL = sql.load("admin.accounts", "members.sql")
_OF_PROJECT, _OF_EMAIL = (f"{_SQL['invitations']} {_SQL[which]}" for which in ("of_project", "of_email"))


@dataclass(frozen=True, slots=True)
class Membership:
    """A project as one of its members sees it."""

    id: str
    name: str
    kind: str
    created_at: datetime
    role: Role


@dataclass(frozen=True, slots=True)
class Member:
    """An account in a project."""

    account_id: str
    email: str
    role: Role
    created_at: datetime
    last_signed_in_at: datetime | None


@dataclass(frozen=True, slots=True)
class Invitation:
    """Waits for the account of `email`."""

    id: str
    project_id: str
    project: str
    email: str
    role: Role
    created_at: datetime
    expires_at: datetime


async def role_of(connection: asyncpg.Connection, account_id: str, project_id: str) -> Role | None:
    """What the account is in the project; None if it is no member."""
    role = await connection.fetchval(_SQL["role"], account_id, project_id)
    return None if role is None else Role(role)


async def projects_of(connection: asyncpg.Connection, account_id: str) -> list[Membership]:
    """The projects of an account by name, the platform last."""
    rows = await connection.fetch(_SQL["projects"], account_id)
    return [Membership(**{**row, "role": Role(row["role"])}) for row in rows]


async def list_members(connection: asyncpg.Connection, project_id: str) -> list[Member]:
    """Everybody in a project, the longest there first."""
    return [_member(row) for row in await connection.fetch(_SQL["members"], project_id)]


async def get_member(connection: asyncpg.Connection, project_id: str, account_id: str) -> Member | None:
    """One of them, or None."""
    row = await connection.fetchrow(_SQL["member"], project_id, account_id)
    return None if row is None else _member(row)


async def put_member(connection: asyncpg.Connection, project_id: str, account_id: str, role: Role) -> None:
    """Make an account a member with this role. Writes no audit row: the cause does."""
    await connection.execute(_SQL["put"], project_id, account_id, role)


async def set_role(connection: asyncpg.Connection, project_id: str, member: Member, role: Role, *, actor: str) -> None:
    """Give a member another role. Raises Refused if the project would be left without an owner."""
    if role is member.role:
        return
    await _keep_an_owner(connection, project_id, member)
    await put_member(connection, project_id, member.account_id, role)
    await _note(connection, Action.UPDATED, project_id, member.account_id, member.email, member.role, role, actor)


async def remove(connection: asyncpg.Connection, project_id: str, member: Member, *, actor: str) -> None:
    """Take somebody out of a project. Raises Refused for its last owner."""
    await _keep_an_owner(connection, project_id, member)
    await connection.execute(_SQL["remove"], project_id, member.account_id)
    await _note(connection, Action.DELETED, project_id, member.account_id, member.email, member.role, None, actor)


async def invite(
    connection: asyncpg.Connection, project_id: str, project: str, email: str, role: Role, *, actor: str, by: str
) -> None:
    """Invite an address, in place of an earlier invitation of it. `by` is the name the mail gives.

    Raises Refused if it is a member's, or the project has 200 invitations open.
    """
    email = email.lower()
    if await connection.fetchval(_SQL["member_by_email"], project_id, email) is not None:
        raise Refused(f"{email} is a member already", "email")
    if len(await invitations_to(connection, project_id)) >= INVITATIONS_MOST:
        raise Refused(f"{INVITATIONS_MOST} invitations are open; withdraw some first")
    invitation_id = ids.new_id("invitation")
    await connection.execute(_SQL["invite"], invitation_id, project_id, email, role, actor)
    facts = {"project": project, "role": role, "invited_by": by}
    await queue(connection, project_id, Letter(Kind.INVITATION, email, facts), f"invitation:{invitation_id}")
    fields = {"email": email, "role": role}
    change = Change(Action.CREATED, "invitation", email, invitation_id, project_id, None, None, dict(fields))
    await record(connection, change, actor=actor)


async def invitations_to(connection: asyncpg.Connection, project_id: str) -> list[Invitation]:
    """The open invitations of a project, the newest first."""
    return [_invitation(row) for row in await connection.fetch(_OF_PROJECT, project_id)]


async def invitations_for(connection: asyncpg.Connection, email: str) -> list[Invitation]:
    """The open invitations of an address, the newest first."""
    return [_invitation(row) for row in await connection.fetch(_OF_EMAIL, email)]


async def accept(connection: asyncpg.Connection, invitation: Invitation, account_id: str) -> None:
    """Join the project. A member who was invited again keeps the role they have."""
    await connection.execute(_SQL["withdraw"], invitation.id)
    if await role_of(connection, account_id, invitation.project_id) is None:
        await put_member(connection, invitation.project_id, account_id, invitation.role)
        actor = f"account:{account_id}"
        await _note(
            connection,
            Action.CREATED,
            invitation.project_id,
            account_id,
            invitation.email,
            None,
            invitation.role,
            actor,
        )


async def withdraw(connection: asyncpg.Connection, invitation: Invitation, *, actor: str) -> None:
    """Take an invitation back, or decline it."""
    if await connection.fetchrow(_SQL["withdraw"], invitation.id) is not None:
        fields = {"email": invitation.email, "role": invitation.role}
        change = Change(
            Action.DELETED,
            "invitation",
            invitation.email,
            invitation.id,
            invitation.project_id,
            None,
            dict(fields),
            None,
        )
        await record(connection, change, actor=actor)


async def _keep_an_owner(connection: asyncpg.Connection, project_id: str, member: Member) -> None:
    if member.role is Role.OWNER and await connection.fetchval(_SQL["owners"], project_id) == 1:
        raise Refused(f"{member.email} is the only owner; make somebody else an owner first")


async def _note(
    connection: asyncpg.Connection,
    action: Action,
    project_id: str,
    account_id: str,
    email: str,
    before: Role | None,
    after: Role | None,
    actor: str,
) -> None:
    change = Change(
        action,
        "member",
        email,
        account_id,
        project_id,
        None,
        None if before is None else {"email": email, "role": before},
        None if after is None else {"email": email, "role": after},
    )
    await record(connection, change, actor=actor)


def _member(row: asyncpg.Record) -> Member:
    return Member(**{**row, "role": Role(row["role"])})


def _invitation(row: asyncpg.Record) -> Invitation:
    return Invitation(**{**row, "role": Role(row["role"])})
