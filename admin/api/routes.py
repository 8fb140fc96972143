"""/api/v1/routes."""

from __future__ import annotations

from typing import Final

from admin.api import resources
from admin.api.call import Endpoint
from admin.permissions import Permission
from admin.routes import rows
from ledger.specs import RouteSpec

ENDPOINTS: Final[tuple[Endpoint, ...]] = resources.endpoints(
    rows, RouteSpec, "routes", Permission.ROUTES_READ, Permission.ROUTES_WRITE
)
