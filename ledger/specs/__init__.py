"""What can be declared, and what makes it valid: the one set of models behind YAML files, admin's API and the gateway.

A declaration file is a list of projects, each with its tiers, customers, billed meters, issuers, upstreams and routes
(`Declaration`).
Names are the identity: applying the same file twice changes nothing. Modes: a tier or customer is declared for `test`,
`live` or both halves of the project (`modes`); upstreams and routes serve both; the users of an issuer belong to one.

A module for each noun; their models are all to be had from here.
"""

from ledger.specs.billed import BilledMeterSpec
from ledger.specs.customers import CustomerSpec, KeySpec
from ledger.specs.declaration import Declaration, ProjectSpec
from ledger.specs.issuers import ClaimsSpec, IssuerSpec, SigningAlgorithm
from ledger.specs.routes import AuthMode, RouteSpec, StoreFailure
from ledger.specs.text import ExternalId, Mailbox, Name, Title, is_meter_name
from ledger.specs.tiers import QuotaSpec, TierSpec
from ledger.specs.upstreams import UpstreamSpec

__all__ = [
    "AuthMode",
    "BilledMeterSpec",
    "ClaimsSpec",
    "CustomerSpec",
    "Declaration",
    "ExternalId",
    "IssuerSpec",
    "KeySpec",
    "Mailbox",
    "Name",
    "ProjectSpec",
    "QuotaSpec",
    "RouteSpec",
    "SigningAlgorithm",
    "StoreFailure",
    "TierSpec",
    "Title",
    "UpstreamSpec",
    "is_meter_name",
]
