"""What is remembered of keys, customers and tiers, by all that it is asked or forgotten by. No I/O.

Bounds: `most` principals, end users and unknown hashes each. Of the first two the oldest gives way; unknown hashes are
forgotten all at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.store.nouns import Customer, Principal, Tier

Where = tuple[str, str, str]
"""Project, mode, and the project's own id for a customer."""
Tiers = tuple[dict[str, "Tier"], "Tier | None"]
"""A project's tiers in a mode, by name, and the default one."""

_UNKNOWN_FOR_S: Final = 30.0
"""How long an unknown hash is remembered; a newly made key is announced by its change, so this only bounds memory."""


class Remembered:
    """See the module. `principals` are by their key's hash."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hash_of: dict[str, bytes] = {}
        self._keys_of: dict[str, set[bytes]] = {}
        self._user_of: dict[str, Where] = {}
        self._unknown: dict[bytes, float] = {}
        self.principals: dict[bytes, Principal] = {}
        self.end_users: dict[Where, Customer] = {}
        self.tiers: dict[tuple[str, str], Tiers] = {}

    def keep_principal(self, principal: Principal) -> None:
        key_hash = principal.key_hash
        if len(self.principals) >= self._most:
            self._forget_hash(next(iter(self.principals)))
        self.principals[key_hash] = principal
        self._hash_of[principal.key_id] = key_hash
        if principal.customer is not None:
            self._keys_of.setdefault(principal.customer.id, set()).add(key_hash)

    def keep_end_user(self, where: Where, customer: Customer) -> None:
        if len(self.end_users) >= self._most:
            self._forget_user(next(iter(self.end_users)))
        self.end_users[where] = customer
        self._user_of[customer.id] = where

    def keep_unknown(self, key_hash: bytes) -> None:
        """There is no key with this hash."""
        if len(self._unknown) >= self._most:
            self._unknown.clear()
        self._unknown[key_hash] = time.monotonic() + _UNKNOWN_FOR_S

    def is_unknown(self, key_hash: bytes) -> bool:
        """True if it was said lately that there is no such key."""
        expires = self._unknown.get(key_hash)
        return expires is not None and expires > time.monotonic()

    def forget_key(self, key_id: str) -> None:
        """A key has changed, or is new."""
        self._forget_hash(self._hash_of.get(key_id))
        self._unknown.clear()

    def forget_customer(self, customer_id: str) -> None:
        for key_hash in tuple(self._keys_of.get(customer_id, ())):
            self._forget_hash(key_hash)
        self._forget_user(self._user_of.get(customer_id))

    def forget_tiers(self, project_id: str) -> None:
        """A project's tiers have changed, and with them what all of its keys and customers allow."""
        for mode in ("live", "test"):
            self.tiers.pop((project_id, mode), None)
        for key_hash in [h for h, p in self.principals.items() if p.project_id == project_id]:
            self._forget_hash(key_hash)
        for where in [w for w in self.end_users if w[0] == project_id]:
            self._forget_user(where)

    def forget_everything(self) -> None:
        for memory in (self.principals, self.end_users, self.tiers, self._unknown):
            memory.clear()
        for index in (self._hash_of, self._keys_of, self._user_of):
            index.clear()

    def _forget_hash(self, key_hash: bytes | None) -> None:
        principal = self.principals.pop(key_hash, None) if key_hash is not None else None
        if principal is None or key_hash is None:
            return
        self._hash_of.pop(principal.key_id, None)
        if principal.customer is not None:
            keys = self._keys_of.get(principal.customer.id, set())
            keys.discard(key_hash)
            if not keys:
                self._keys_of.pop(principal.customer.id, None)

    def _forget_user(self, where: Where | None) -> None:
        customer = self.end_users.pop(where, None) if where is not None else None
        if customer is not None:
            self._user_of.pop(customer.id, None)
