"""Which issuer a token claims to come from: looked up by the project it is used in and its `iss`.

Immutable; made again as a whole when an issuer changes. An issuer that did not change keeps its object, so whatever was
learnt about it (keys, verified tokens) stays good for exactly as long as `of` still returns that object.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.store.nouns import Issuer


class IssuerTable:
    """The issuers of all projects."""

    __slots__ = ("_of_project", "_sole", "by_id")

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self.by_id: dict[str, Issuer] = {}
        self._of_project: dict[tuple[str, str], Issuer] = {}
        self._sole: dict[str, Issuer | None] = {}
        for issuer in issuers:
            name = issuer.spec.issuer
            self.by_id[issuer.id] = issuer
            self._of_project[issuer.project_id, name] = issuer
            self._sole[name] = None if name in self._sole else issuer

    def of(self, project_id: str | None, iss: str) -> Issuer | None:
        """A project's issuer with this `iss`; for no project in particular, the only one there is."""
        return self._sole.get(iss) if project_id is None else self._of_project.get((project_id, iss))
