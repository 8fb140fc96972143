"""Secrets at rest: sealed with AES-256-GCM under keys from the settings, bound to what they belong to.

A sealed secret is `1 | key id (4) | nonce (12) | ciphertext and tag`. The key id says which key opens it (the beginning
of the key's SHA-256), so several keys can be in use: the newest seals, all open. `about` is authenticated with it: a sealed
secret that is moved to another row does not open there.

Failure: `CannotOpen`, which says why and nothing of the secret. A process without keys has no vault (None) and can neither
seal nor open.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from config.encryption import decode_keys

if TYPE_CHECKING:
    from config.settings import Settings

_FORM: Final = b"\x01"
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = len(_FORM) + _ID_BYTES + _NONCE_BYTES


class CannotOpen(Exception):
    """A sealed secret cannot be opened with the keys there are."""


class VaultError(Exception):
    """The keys cannot be read. The message names the file or setting, and no key."""


class Vault:
    """Seals with the first of `keys`, opens with any. Each key is 32 bytes. Raises ValueError without a key."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a vault needs a key")
        self._ciphers = {_id_of(key): AESGCM(key) for key in keys}
        self._newest = _id_of(keys[0])

    def __repr__(self) -> str:
        return f"<Vault of {len(self._ciphers)} keys>"

    def seal(self, text: str, about: str) -> bytes:
        """The secret as it may be stored; twice the same text gives two different results."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, text.encode(), about.encode())
        return _FORM + self._newest + nonce + sealed

    def open(self, sealed: bytes, about: str) -> str:
        """The secret. Raises CannotOpen."""
        if len(sealed) < _HEAD_BYTES or sealed[:1] != _FORM:
            raise CannotOpen("it is not in a form that this release knows")
        cipher = self._ciphers.get(_key_of(sealed))
        if cipher is None:
            raise CannotOpen("the key that sealed it is not among the encryption keys")
        nonce = sealed[len(_FORM) + _ID_BYTES : _HEAD_BYTES]
        try:
            return cipher.decrypt(nonce, sealed[_HEAD_BYTES:], about.encode()).decode()
        except InvalidTag:
            raise CannotOpen("it was altered, or belongs to something else") from None

    def is_current(self, sealed: bytes) -> bool:
        """True if the newest key sealed it."""
        return _key_of(sealed) == self._newest


def vault_of(settings: Settings) -> Vault | None:
    """The vault of the keys that the settings name, None where they name none. Raises VaultError."""
    text = settings.encryption_keys.get_secret_value() if settings.encryption_keys is not None else ""
    file = settings.encryption_keys_file
    if file is not None:
        try:
            text = f"{text} {file.read_text(encoding='ascii')}"
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise VaultError(f"encryption_keys_file: cannot read {file}: {reason}") from None
    try:
        keys = decode_keys(text)
    except ValueError as error:
        raise VaultError(f"{'encryption_keys' if file is None else file}: {error}") from None
    if file is not None and not keys:
        raise VaultError(f"encryption_keys_file: {file} holds no key")
    return Vault(keys) if keys else None


def _id_of(key: bytes) -> bytes:
    return sha256(b"tollgate key id" + key).digest()[:_ID_BYTES]


def _key_of(sealed: bytes) -> bytes:
    return sealed[len(_FORM) : len(_FORM) + _ID_BYTES]
