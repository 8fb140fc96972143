"""Writing a file from what exists: it applies to itself without a change, and says nothing that goes without saying.

Keys are not exported (nobody has their text), nor are customers that were only seen at a gateway.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg
import yaml

from admin.billed import rows as billed
from admin.changes import Unfit
from admin.customers import rows as customers
from admin.issuers import rows as issuers
from admin.nouns import Noun, Scope
from admin.projects import rows as projects
from admin.routes import rows as routes
from admin.tiers import rows as tiers
from admin.upstreams import rows as upstreams
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import Mode
from ledger.specs import CustomerSpec, IssuerSpec, RouteSpec, TierSpec, UpstreamSpec

S = TypeVar("S", TierSpec, CustomerSpec)
BOTH = (Mode.TEST, Mode.LIVE)


async def export(connection: asyncpg.Connection, project: str | None = None, *, modes: Collection[Mode] = BOTH) -> str:
    """The YAML of one project (by name) or of all; `modes` narrows tiers, customers and issuers. Raises Unfit if unknown."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        if project is None:
            found = await projects.page(connection, None, None)
        elif (one := await projects.by_name(connection, project)) is not None:
            found = [one]
        else:
            raise Unfit(f"no project is called {project!r}", "project")
        written = [
            (one, await _project(connection, one, modes)) for one in sorted(found, key=lambda project: project.name)
        ]
    # The platform's own project is always there; it is worth a line only if something is declared for it.
    entries = [
        entry for one, entry in written if project is not None or one.id != PLATFORM_PROJECT_ID or len(entry) > 1
    ]
    return yaml.dump(
        {"version": 1, "projects": entries}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )


async def _project(
    connection: asyncpg.Connection, project: projects.Project, modes: Collection[Mode]
) -> dict[str, Any]:
    whole = Scope(project.id, Mode.TEST)
    entry: dict[str, Any] = {"name": project.name}
    if project.kind != "saas":
        entry["kind"] = project.kind
    lists = {
        "tiers": await _by_mode(connection, tiers, project.id, modes),
        "customers": await _by_mode(connection, customers, project.id, modes),
        "billed_meters": await _billed(connection, project.id, modes),
        "issuers": [
            _short(issuer.spec)
            for mode in modes
            for issuer in (await issuers.by_name(connection, Scope(project.id, mode))).values()
        ],
        "upstreams": [_upstream(u.spec) for u in (await upstreams.by_name(connection, whole)).values()],
        "routes": [_route(r.spec) for r in (await routes.by_name(connection, whole)).values()],
    }
    return entry | {name: entries for name, entries in lists.items() if entries}


async def _by_mode(
    connection: asyncpg.Connection, noun: Noun[S], project_id: str, modes: Collection[Mode]
) -> list[dict[str, Any]]:
    """Each object once, with its modes; one that differs between the modes once for each."""
    found: dict[str, list[tuple[dict[str, Any], list[Mode]]]] = {}
    for mode in modes:
        for name, stored in (await noun.by_name(connection, Scope(project_id, mode))).items():
            if stored.more.get("origin") == customers.SEEN:
                continue
            entry = _tier(stored.spec) if isinstance(stored.spec, TierSpec) else _short(stored.spec, "modes")
            variants = found.setdefault(name, [])
            same = next((in_modes for other, in_modes in variants if other == entry), None)
            if same is None:
                variants.append((entry, [mode]))
            else:
                same.append(mode)
    return [
        entry if set(in_modes) == set(BOTH) else {**entry, "modes": [str(mode) for mode in in_modes]}
        for _, variants in sorted(found.items())
        for entry, in_modes in variants
    ]


async def _billed(connection: asyncpg.Connection, project_id: str, modes: Collection[Mode]) -> list[Any]:
    found: dict[tuple[str, str], list[Mode]] = {}
    for mode in modes:
        for one in (await billed.in_force(connection, Scope(project_id, mode))).values():
            found.setdefault((one.meter, one.event_name), []).append(mode)
    entries = []
    for (meter, name), in_modes in sorted(found.items()):
        entry: dict[str, Any] = {"meter": meter}
        if name != meter:
            entry["event_name"] = name
        if set(in_modes) != set(BOTH):
            entry["modes"] = [str(mode) for mode in in_modes]
        entries.append(_bare(entry, "meter"))
    return entries


def _tier(spec: TierSpec) -> dict[str, Any]:
    entry = _short(spec, "modes")
    if spec.title == spec.name:
        entry.pop("title", None)
    if spec.quotas:
        quotas: Mapping[str, dict[str, Any]] = entry["quotas"]
        entry["quotas"] = {meter: _bare(quota, "limit") for meter, quota in quotas.items()}
    return entry


def _upstream(spec: UpstreamSpec) -> dict[str, Any]:
    entry = _short(spec)
    targets: Sequence[dict[str, Any]] = entry["targets"]
    entry["targets"] = [_bare(target, "url") for target in targets]
    return entry


def _route(spec: RouteSpec) -> dict[str, Any]:
    entry = _short(spec)
    if "meters" in entry:
        meters: Mapping[str, Any] = entry["meters"]
        entry["meters"] = {
            name: _bare(meter, "source") if isinstance(meter, dict) else meter for name, meter in meters.items()
        }
    return entry


def _short(spec: TierSpec | CustomerSpec | IssuerSpec | UpstreamSpec | RouteSpec, *but: str) -> dict[str, Any]:
    """The fields that are not what they would be anyway."""
    return spec.model_dump(mode="json", exclude_defaults=True, exclude=set(but))


def _bare(entry: dict[str, Any], field: str) -> Any:
    """The short form of an entry that says nothing but one field."""
    return entry.get(field) if set(entry) <= {field} else entry


class _Dumper(yaml.SafeDumper):
    """Indents lists inside mappings, as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True
