"""Signatures of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body. Pure."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
_BYTES: Final = 32


def new_secret() -> str:
    """A fresh secret, as its owner gets it: whsec_ and base 64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def signature(secret: str, message_id: str, unix_s: int, body: str) -> str:
    """One signature: v1,base64. The key is what the secret holds after its prefix."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{unix_s}.{body}".encode()
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def headers(signing: Sequence[str], message_id: str, unix_s: int, body: str) -> dict[str, str]:
    """The fields of a request: while a secret is being changed, one signature for each that is good."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "Tollgate-Webhooks/1",
        "webhook-id": message_id,
        "webhook-timestamp": str(unix_s),
        "webhook-signature": " ".join(signature(secret, message_id, unix_s, body) for secret in signing),
    }
