"""The secrets of upstreams and routes on their way into the database, and sealing all secrets again under a newer key.

`sealed` decides what is stored beside a spec: nothing, what is there already, or a new secret. `reseal` is what rotation of
the encryption keys needs. Failure: Unfit, without a word of the secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from admin.changes import Unfit
from admin.store import writing
from ledger import sql
from ledger.specs import RouteSpec, UpstreamSpec
from ledger.vault import CannotOpen, Vault

S = TypeVar("S", UpstreamSpec, RouteSpec)

_SQL = sql.load("admin", "credentials.sql")
_NO_KEYS = "cannot be stored: no encryption key is set (TOLLGATE_ENCRYPTION_KEYS; `tollgate secrets new-key` makes one)"


@dataclass(frozen=True, slots=True)
class Resealed:
    """How many secrets were sealed anew, were sealed with the newest key already, and cannot be opened."""

    resealed: int
    current: int
    lost: tuple[str, ...]
    """The ids of what they belong to."""


def sealed(spec: S, object_id: str, stored: bytes | None, vault: Vault | None) -> tuple[S, bytes | None]:
    """The spec, and the sealed secret to store beside it; `stored` is the one there is.

    The spec keeps its credential's value only if that is not what is stored: then it differs from the stored spec, too.
    """
    credential = spec.credential
    if credential is None:
        return spec, None
    if credential.value_from_env is not None:
        raise Unfit("variables are read by `tollgate apply` alone; send the value", "credential", "value_from_env")
    if credential.value is None:
        if stored is None:
            raise Unfit("needs its value here, or value_from_env: none is stored yet", "credential")
        return spec, stored
    if vault is None:
        raise Unfit(_NO_KEYS, "credential", "value")
    value = credential.value.get_secret_value()
    if stored is not None and _opened(vault, stored, object_id) == value:
        return spec.model_copy(update={"credential": credential.model_copy(update={"value": None})}), stored
    return spec, vault.seal(value, object_id)


async def reseal(connection: asyncpg.Connection, vault: Vault) -> Resealed:
    """Seal every secret with the newest key, in one transaction."""
    resealed, current, lost = 0, 0, []
    async with writing(connection):
        for row in await connection.fetch(_SQL["sealed"]):
            if vault.is_current(row["secret"]):
                current += 1
                continue
            text = _opened(vault, row["secret"], row["id"])
            if text is None:
                lost.append(row["id"])
                continue
            await connection.execute(_SQL[f"reseal_{row['noun']}"], row["id"], vault.seal(text, row["id"]))
            resealed += 1
    return Resealed(resealed, current, tuple(lost))


def _opened(vault: Vault, secret: bytes, object_id: str) -> str | None:
    try:
        return vault.open(secret, object_id)
    except CannotOpen:
        return None
