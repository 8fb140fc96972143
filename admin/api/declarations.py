"""/api/v1/apply and /api/v1/export: whole projects as YAML or JSON, narrowed to the caller's mode.

A key declares its own project only; the platform's secret keys declare any, new ones too.
"""

from __future__ import annotations

from typing import Final

from admin.api.call import Body, Call, Denied, Endpoint, Reply, flag
from admin.api.resources import as_told
from admin.declare import apply, export
from admin.permissions import Permission
from admin.projects import rows as projects
from ledger import problems
from ledger.keys import Mode
from ledger.specs import Declaration


async def apply_(call: Call) -> Reply:
    """Make the project as declared; answers what changed. With dry_run=true nothing is kept."""
    declaration: Declaration = call.body
    dry_run, prune = flag(call.query, "dry_run"), flag(call.query, "prune")
    if not call.caller.is_platform:
        own = await projects.get(call.connection, call.caller.project_id)
        if own is None or any(project.name != own.name for project in declaration.projects):
            raise Denied(problems.WRONG_PROJECT, f"This key declares project {own.name if own else ''!r} alone.")
    changes = await apply(
        call.connection,
        declaration,
        actor=call.caller.actor,
        dry_run=dry_run,
        prune=prune,
        modes=(call.caller.mode,),
        vault=call.vault,
    )
    return Reply(
        {
            "dry_run": dry_run,
            "mode": call.caller.mode,
            "skipped": _outside(declaration, call.caller.mode),
            "changes": [as_told(change) for change in changes],
        }
    )


async def export_(call: Call) -> Reply:
    """The YAML that applies to itself: the caller's project, or all for the platform."""
    own = await projects.get(call.connection, call.caller.project_id)
    name = None if call.caller.is_platform or own is None else own.name
    return Reply(text=await export(call.connection, name, modes=(call.caller.mode,)))


def _outside(declaration: Declaration, mode: Mode) -> int:
    """How many tiers, customers and issuers are declared for the mode that this key does not serve."""
    modes = [t.modes for p in declaration.projects for t in p.tiers]
    modes += [c.modes for p in declaration.projects for c in p.customers]
    modes += [(n.mode,) for p in declaration.projects for n in p.issuers]
    return sum(any(other is not mode for other in in_modes) for in_modes in modes)


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        "/api/v1/apply",
        apply_,
        Permission.ROUTES_WRITE,
        body=Body.DECLARATION,
        writes=True,
        creates=True,
        query=frozenset(("dry_run", "prune")),
    ),
    Endpoint("GET", "/api/v1/export", export_, Permission.ROUTES_READ, produces="application/yaml"),
)
