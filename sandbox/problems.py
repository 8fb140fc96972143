"""Every refusal of this plane, in the form of RFC 9457 that all of Tollgate uses.

A problem carries a stable `code`, a status, a title and a public detail, plus `error` and `message` for simple clients;
`errors` names each field that is wrong. What went wrong inside goes to the log only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

TYPE_BASE: Final = "https://tollgate.dev/problems/"
CONTENT_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of refusal."""

    code: str
    status: int
    title: str
    detail: str


INVALID_RUN: Final = Problem("invalid_run", 400, "Invalid request", "The request cannot be run as it is.")
NOT_JSON: Final = Problem("not_json", 400, "Not JSON", "The body is not a JSON object.")
UNSUPPORTED_MEDIA_TYPE: Final = Problem(
    "unsupported_media_type", 415, "Unsupported media type", "Send Content-Type: application/json."
)
BODY_TOO_LARGE: Final = Problem(
    "body_too_large", 413, "Body too large", "The request body is larger than allowed here."
)
NOT_FROM_GATEWAY: Final = Problem("not_from_gateway", 401, "Not from the gateway", "Only the gateway may ask this.")
NOT_FOUND: Final = Problem("not_found", 404, "Not found", "There is no such run here.")
METHOD_NOT_ALLOWED: Final = Problem(
    "method_not_allowed", 405, "Method not allowed", "This path does not take the method."
)
FORBIDDEN: Final = Problem("forbidden", 403, "Forbidden", "This key may not do that.")
TOO_MANY_ENDPOINTS: Final = Problem(
    "too_many_endpoints", 409, "Too many endpoints", "This project has as many endpoints as it may have."
)
RUN_ENDED: Final = Problem("run_ended", 409, "Run ended", "The run has ended already.")
RUN_IN_PROGRESS: Final = Problem(
    "run_in_progress", 409, "Run in progress", "A run with this Idempotency-Key is in progress elsewhere."
)
IDEMPOTENCY_KEY_REUSED: Final = Problem(
    "idempotency_key_reused", 422, "Idempotency key reused", "This Idempotency-Key came with another request before."
)
TOO_MANY_RUNS: Final = Problem(
    "too_many_runs", 429, "Too many runs", "This project has as many runs waiting as it may have."
)
BUSY: Final = Problem("busy", 503, "Service unavailable", "No run can be started at the moment.")
NO_BACKEND: Final = Problem("no_backend", 503, "Service unavailable", "Code cannot be run safely here.")
RUN_LOST: Final = Problem(
    "run_lost", 503, "Service unavailable", "The run was lost through no fault of its own. Try again."
)
PACKAGES_FAILED: Final = Problem(
    "packages_failed", 422, "Packages not installed", "The packages could not be installed."
)
STORE_UNAVAILABLE: Final = Problem(
    "store_unavailable", 503, "Service unavailable", "The database cannot be asked at the moment."
)
NODE_SILENT: Final = Problem(
    "node_silent", 503, "Service unavailable", "Another node that may have this run does not answer at the moment."
)
INTERNAL: Final = Problem(
    "internal", 500, "Internal error", "Something went wrong here. The request id finds it in the log."
)


class Refused(Exception):
    """A request goes no further. `retry_after_s` where waiting helps; `errors` are (field, what is wrong)."""

    def __init__(
        self,
        problem: Problem,
        detail: str | None = None,
        *,
        retry_after_s: int | None = None,
        errors: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail or problem.detail)
        self.problem = problem
        self.detail = detail or problem.detail
        self.retry_after_s = retry_after_s
        self.errors = errors


def response(refused: Refused, request_id: str) -> web.Response:
    """A refusal as an HTTP answer."""
    problem = refused.problem
    document: dict[str, Any] = {
        "type": TYPE_BASE + problem.code.replace("_", "-"),
        "title": problem.title,
        "status": problem.status,
        "detail": refused.detail,
        "code": problem.code,
        "request_id": request_id,
        "error": problem.title,
        "message": refused.detail,
    }
    if refused.errors:
        document["errors"] = [{"field": field, "message": message} for field, message in refused.errors]
    headers = {} if refused.retry_after_s is None else {"Retry-After": str(refused.retry_after_s)}
    return web.Response(body=orjson.dumps(document), status=problem.status, content_type=CONTENT_TYPE, headers=headers)
