"""/api/v1/project (the caller's own) and /api/v1/projects (all of them, for the platform's secret keys)."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import asyncpg

from admin.accounts import members, sessions
from admin.accounts.members import Membership
from admin.accounts.sessions import Session
from admin.api import pages
from admin.api.call import Body, Call, Endpoint, Reply, invalid, not_found
from admin.api.keys import make
from admin.api.resources import validated
from admin.permissions import Permission, Role
from admin.projects import rows
from admin.projects.rows import Project
from ledger.keys import Mode
from ledger.specs import ProjectSpec

_PATH: Final = "/api/v1/projects"
FIELDS: Final = frozenset(("name", "kind"))


def _represent(project: Project) -> dict[str, Any]:
    return {"id": project.id, "name": project.name, "kind": project.kind, "created_at": project.created_at}


async def _found(call: Call, project_id: str) -> Project:
    project = await rows.get(call.connection, project_id)
    if project is None:
        raise not_found("project", project_id)
    return project


async def create_owned(connection: asyncpg.Connection, session: Session, spec: ProjectSpec) -> Membership:
    """A new project whose owner is the session's account; its pages show it from now on. Raises Refused."""
    created = await rows.create(connection, spec, actor=session.actor)
    project_id = created.object_id
    await members.put_member(connection, project_id, session.account_id, Role.OWNER)
    await sessions.turn_to(connection, session, project_id, Mode.TEST)
    project = await rows.get(connection, project_id)
    assert project is not None  # made just now, in this transaction
    return Membership(project.id, project.name, project.kind, project.created_at, Role.OWNER)


async def own(call: Call) -> Reply:
    """The caller's project, and the mode its key is for."""
    return Reply({**_represent(await _found(call, call.caller.project_id)), "mode": call.caller.mode})


async def list_(call: Call) -> Reply:
    """All projects."""
    return await pages.paged(call.query, partial(rows.page, call.connection), _represent)


async def get(call: Call) -> Reply:
    """One project."""
    return Reply(_represent(await _found(call, call.params["id"])))


async def create(call: Call) -> Reply:
    """A new project; what is in it is made with its own keys, or by applying a declaration."""
    if nested := sorted(call.body.keys() & (ProjectSpec.model_fields.keys() - FIELDS)):
        raise invalid(nested[0], "is not taken here; apply a declaration, or make it with a key of the project")
    created = await rows.create(call.connection, validated(ProjectSpec, call.body), actor=call.caller.actor)
    return Reply(_represent(await _found(call, created.object_id)), 201, f"{_PATH}/{created.object_id}")


async def create_key(call: Call) -> Reply:
    """A key of another project, in the mode of the platform's key: how a new project gets its first one."""
    project = await _found(call, call.params["id"])
    return await make(call, project.id, call.body)


ENDPOINTS: Final = (
    Endpoint("GET", "/api/v1/project", own, Permission.PROJECT_READ),
    Endpoint("GET", _PATH, list_, Permission.PLATFORM, query=pages.QUERY, platform_only=True),
    Endpoint("POST", _PATH, create, Permission.PLATFORM, body=Body.JSON, writes=True, creates=True, platform_only=True),
    Endpoint("GET", f"{_PATH}/{{id}}", get, Permission.PLATFORM, platform_only=True),
    Endpoint(
        "POST",
        f"{_PATH}/{{id}}/keys",
        create_key,
        Permission.PLATFORM,
        body=Body.JSON,
        writes=True,
        creates=True,
        platform_only=True,
    ),
)
