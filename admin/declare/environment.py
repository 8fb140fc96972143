"""Credentials whose value a declaration leaves to the environment: `value_from_env: NAME`.

Only `tollgate apply` reads variables, those of whoever runs it. The API never does: a tenant could have the control
plane's own secrets sent to a server of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from pydantic import SecretStr

from admin.declare.faults import DeclarationError, Fault, path_text
from admin.declare.source import Loc, Source
from ledger import credentials
from ledger.specs import Declaration, RouteSpec, UpstreamSpec

S = TypeVar("S", UpstreamSpec, RouteSpec)


def filled_in(declaration: Declaration, environ: Mapping[str, str], source: Source, filename: str) -> Declaration:
    """The declaration with every such value. Raises DeclarationError for variables that are missing or no value."""
    faults: list[Fault] = []

    def of(specs: tuple[S, ...], *path: str | int) -> Iterator[S]:
        for index, spec in enumerate(specs):
            name = spec.credential.value_from_env if spec.credential is not None else None
            if spec.credential is None or name is None:
                yield spec
                continue
            value = environ.get(name, "")
            if not credentials.is_value(value):
                what = f"expected {credentials.WANTED}" if value else "is not set"
                loc: Loc = (*path, index, "credential", "value_from_env")
                faults.append(Fault(*source.tree.find(loc)[1], path_text(loc), f"the variable {name} {what}"))
            filled = spec.credential.model_copy(update={"value": SecretStr(value), "value_from_env": None})
            yield spec.model_copy(update={"credential": filled})

    projects = []
    for at, project in enumerate(declaration.projects):
        upstreams = tuple(of(project.upstreams, "projects", at, "upstreams"))
        routes = tuple(of(project.routes, "projects", at, "routes"))
        projects.append(project.model_copy(update={"upstreams": upstreams, "routes": routes}))
    if faults:
        raise DeclarationError(filename, faults)
    return declaration.model_copy(update={"projects": tuple(projects)})
