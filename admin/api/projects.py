"""/api/v1/project (the caller's own) and /api/v1/projects (all of them, for the platform's secret keys)."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Literal

import asyncpg
from pydantic import BaseModel, ConfigDict

from admin import promote as promotion
from admin.accounts import members, sessions
from admin.accounts.members import Membership
from admin.accounts.sessions import Session
from admin.api import pages
from admin.api.call import Body, Call, Denied, Endpoint, Reply, invalid, not_found
from admin.api.keys import make
from admin.api.resources import check_match, tagged, validated
from admin.keys import list_keys
from admin.nouns import Scope
from admin.permissions import Permission, Role
from admin.projects import rows
from admin.projects.rows import Project
from ledger import problems
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import Mode
from ledger.specs import KeySpec, ProjectSpec, Title

_PATH: Final = "/api/v1/projects"
_CREDENTIALS_MOST: Final = 100
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
    return tagged(await _own(call))


async def _own(call: Call) -> dict[str, Any]:
    return {**_represent(await _found(call, call.caller.project_id)), "mode": call.caller.mode}


class NewProject(BaseModel):
    """A project to be made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Title
    kind: Literal["saas", "store"] = "saas"


class ProjectUpdate(BaseModel):
    """What can be changed of a project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Title


async def update(call: Call) -> Reply:
    """Another name for the caller's project."""
    wanted = validated(ProjectUpdate, call.body)
    check_match(call, await _own(call))
    await rows.rename(call.connection, call.caller.project_id, wanted.name, actor=call.caller.actor)
    return await own(call)


async def delete(call: Call) -> Reply:
    """The caller's project with all that is in it; `confirm` must be its name."""
    project = await _found(call, call.caller.project_id)
    check_match(call, await _own(call))
    if project.id == PLATFORM_PROJECT_ID:
        raise Denied(problems.CONFLICT, "The platform's own project stays.")
    if call.query.get("confirm") != project.name:
        raise invalid("confirm", "expected the project's name")
    await rows.delete(call.connection, project.id, actor=call.caller.actor)
    return Reply(status=204)


async def promote(call: Call) -> Reply:
    """Copy the test tiers to live, and make live keys where there are none; their texts are shown once."""
    made = await promotion.promote(call.connection, call.caller.project_id, actor=call.caller.actor)
    shown = {
        name: {"id": key.id, "key": key.key.text, "prefix": key.key.prefix}
        for name, key in (("secretKey", made.secret), ("publishableKey", made.publishable))
        if key is not None
    }
    tiers = [{"name": change.name, "action": change.action} for change in made.changes]
    return Reply(
        {"projectId": call.caller.project_id, "tiers": tiers, **shown}, 200, "/api/keys" if shown else None, bool(shown)
    )


async def credentials(call: Call) -> Reply:
    """The keys of both halves by their first characters. Their texts were shown when they were made, and are not kept."""
    project_id = call.caller.project_id
    found: dict[str, Any] = {"projectId": project_id, "mode": call.caller.mode}
    for mode in Mode:
        listed = await list_keys(call.connection, Scope(project_id, mode), None, _CREDENTIALS_MOST)
        found[mode.value] = [
            {"id": key.id, "name": key.name, "kind": key.kind, "prefix": key.prefix, "expiresAt": key.expires_at}
            for key in listed
            if key.revoked_at is None
        ]
    return Reply(found)


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
    Endpoint(
        "PATCH",
        "/api/v1/project",
        update,
        Permission.PROJECT_UPDATE,
        body=Body.JSON,
        model=ProjectUpdate,
        writes=True,
        matches=True,
    ),
    Endpoint(
        "DELETE",
        "/api/v1/project",
        delete,
        Permission.PROJECT_DELETE,
        writes=True,
        matches=True,
        query=frozenset(("confirm",)),
    ),
    Endpoint("GET", "/get-credentials", credentials, Permission.KEYS_READ),
    Endpoint("POST", "/promote-to-live", promote, Permission.PROJECT_PROMOTE, writes=True, creates=True),
    Endpoint("GET", _PATH, list_, Permission.PLATFORM, query=pages.QUERY, platform_only=True),
    Endpoint(
        "POST",
        _PATH,
        create,
        Permission.PLATFORM,
        body=Body.JSON,
        model=NewProject,
        writes=True,
        creates=True,
        platform_only=True,
    ),
    Endpoint("GET", f"{_PATH}/{{id}}", get, Permission.PLATFORM, platform_only=True),
    Endpoint(
        "POST",
        f"{_PATH}/{{id}}/keys",
        create_key,
        Permission.PLATFORM,
        body=Body.JSON,
        model=KeySpec,
        shows=KeySpec,
        writes=True,
        creates=True,
        platform_only=True,
    ),
)
