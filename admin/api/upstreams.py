"""/api/v1/upstreams."""

from __future__ import annotations

from typing import Final

from admin.api import resources
from admin.api.call import Endpoint
from admin.permissions import Permission
from admin.upstreams import rows
from ledger.specs import UpstreamSpec

ENDPOINTS: Final[tuple[Endpoint, ...]] = resources.endpoints(
    rows, UpstreamSpec, "upstreams", Permission.ROUTES_READ, Permission.ROUTES_WRITE
)
