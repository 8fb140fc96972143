"""Refusals, as Stripe words them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """The answer is an error object. `headers` go with it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {
            "error": {
                "message": message,
                "type": kind,
                **({"code": code} if code else {}),
                **({"param": param} if param else {}),
            }
        }


def missing(kind: str, object_id: str, param: str = "id") -> Refusal:
    """There is no such object, in this half."""
    return Refusal(f"No such {kind}: '{object_id}'", status=404, code="resource_missing", param=param)
