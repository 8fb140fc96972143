"""/api/v1/customers."""

from __future__ import annotations

from typing import Final

from admin.api import resources
from admin.api.call import Endpoint
from admin.customers import rows
from admin.permissions import Permission
from ledger.specs import CustomerSpec

ENDPOINTS: Final[tuple[Endpoint, ...]] = resources.endpoints(
    rows, CustomerSpec, "customers", Permission.CUSTOMERS_READ, Permission.CUSTOMERS_WRITE
)
