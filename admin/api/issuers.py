"""/api/v1/issuers."""

from __future__ import annotations

from typing import Final

from admin.api import resources
from admin.api.call import Endpoint
from admin.issuers import rows
from admin.permissions import Permission
from ledger.specs import IssuerSpec

ENDPOINTS: Final[tuple[Endpoint, ...]] = resources.endpoints(
    rows, IssuerSpec, "issuers", Permission.ROUTES_READ, Permission.ROUTES_WRITE
)
