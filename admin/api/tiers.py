"""/api/v1/tiers."""

from __future__ import annotations

from typing import Final

from admin.api import resources
from admin.api.call import Endpoint
from admin.permissions import Permission
from admin.tiers import rows
from admin.tiers.affected import represented
from ledger.specs import TierSpec

ENDPOINTS: Final[tuple[Endpoint, ...]] = resources.endpoints(
    rows, TierSpec, "tiers", Permission.TIERS_READ, Permission.TIERS_WRITE, represented
)
