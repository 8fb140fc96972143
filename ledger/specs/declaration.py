"""A project with all that is declared for it, and a whole file of them: what must agree with one another."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ValidationInfo, field_validator

from ledger.keys import Mode
from ledger.references import refuse, twice, unknown
from ledger.spec_types import Spec
from ledger.specs.billed import BilledMeterSpec, bare_meter
from ledger.specs.customers import CustomerSpec
from ledger.specs.issuers import IssuerSpec
from ledger.specs.routes import AuthMode, RouteSpec
from ledger.specs.text import Title
from ledger.specs.tiers import TierSpec
from ledger.specs.upstreams import UpstreamSpec


class ProjectSpec(Spec):
    """A tenant with all that is declared for it."""

    name: Title
    kind: Literal["saas", "store"] = "saas"
    tiers: tuple[TierSpec, ...] = ()
    customers: tuple[CustomerSpec, ...] = ()
    billed_meters: tuple[Annotated[BilledMeterSpec, BeforeValidator(bare_meter)], ...] = ()
    issuers: tuple[IssuerSpec, ...] = ()
    upstreams: tuple[UpstreamSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()

    # Each list is checked as soon as it is valid in itself, so that a fault in one does not hide those of another.
    @field_validator("tiers")
    @classmethod
    def _check_tiers(cls, tiers: tuple[TierSpec, ...]) -> tuple[TierSpec, ...]:
        faults = twice("name", ((i, f"{m} tier {t.name!r}") for i, t in enumerate(tiers) for m in t.modes))
        faults += twice(
            "default", ((i, f"a default {m} tier") for i, t in enumerate(tiers) for m in t.modes if t.default)
        )
        refuse(faults)
        return tiers

    @field_validator("customers")
    @classmethod
    def _check_customers(cls, customers: tuple[CustomerSpec, ...], info: ValidationInfo) -> tuple[CustomerSpec, ...]:
        faults = []
        for mode in Mode:
            of_mode = [(i, c) for i, c in enumerate(customers) if mode in c.modes]
            faults += twice("external_id", ((i, f"{mode} customer {c.external_id!r}") for i, c in of_mode))
            faults += twice(
                "email", ((i, f"{mode} customer with email {c.email.lower()}") for i, c in of_mode if c.email)
            )
            if "tiers" in info.data:
                tiers = {t.name for t in info.data["tiers"] if mode in t.modes}
                faults += unknown(
                    f"{mode} tier", "tier", ((i, c.tier) for i, c in of_mode if c.tier is not None), tiers
                )
        refuse(faults)
        return customers

    @field_validator("billed_meters")
    @classmethod
    def _check_billed_meters(cls, billed: tuple[BilledMeterSpec, ...]) -> tuple[BilledMeterSpec, ...]:
        refuse(twice("meter", ((i, f"{m} meter {b.meter!r}") for i, b in enumerate(billed) for m in b.modes)))
        return billed

    @field_validator("issuers")
    @classmethod
    def _check_issuers(cls, issuers: tuple[IssuerSpec, ...]) -> tuple[IssuerSpec, ...]:
        faults = twice("name", ((i, f"issuer {n.name!r}") for i, n in enumerate(issuers)))
        faults += twice("issuer", ((i, f"an issuer of tokens by {n.issuer!r}") for i, n in enumerate(issuers)))
        refuse(faults)
        return issuers

    @field_validator("upstreams")
    @classmethod
    def _check_upstreams(cls, upstreams: tuple[UpstreamSpec, ...]) -> tuple[UpstreamSpec, ...]:
        refuse(twice("name", ((i, f"upstream {u.name!r}") for i, u in enumerate(upstreams))))
        return upstreams

    @field_validator("routes")
    @classmethod
    def _check_routes(cls, routes: tuple[RouteSpec, ...], info: ValidationInfo) -> tuple[RouteSpec, ...]:
        faults = twice("name", ((i, f"route {r.name!r}") for i, r in enumerate(routes)))
        faults += twice("path", ((i, f"a route for {r.serves}") for i, r in enumerate(routes)))
        if "upstreams" in info.data:
            upstreams = {u.name for u in info.data["upstreams"]}
            faults += unknown("upstream", "upstream", ((i, r.upstream) for i, r in enumerate(routes)), upstreams)
        if not info.data.get("issuers", True):
            by_token = (AuthMode.JWT, AuthMode.KEY_OR_JWT)
            faults += [
                ((i, "auth"), f"{r.auth} needs an issuer of tokens; none is declared under issuers")
                for i, r in enumerate(routes)
                if r.auth in by_token
            ]
        refuse(faults)
        return routes


class Declaration(Spec):
    """A whole file."""

    version: Literal[1] = 1
    projects: tuple[ProjectSpec, ...]

    @field_validator("projects")
    @classmethod
    def _check_projects(cls, projects: tuple[ProjectSpec, ...]) -> tuple[ProjectSpec, ...]:
        faults = twice("name", ((i, f"project {p.name!r}") for i, p in enumerate(projects)))
        served: dict[str, int] = {}
        for i, project in enumerate(projects):
            for j, route in enumerate(project.routes):
                if served.setdefault(route.serves, i) != i:
                    faults.append(((i, "routes", j, "path"), f"another project has a route for {route.serves}"))
        refuse(faults)
        return projects
