"""The error catalogue: every refusal of every plane, once.

A problem has a stable `code` (what programs test), an HTTP status, a title and a public detail; what went wrong inside
goes to the log, never to the client. On the wire it is RFC 9457 `application/problem+json` plus `error` and `message`
for simple clients:

    {"type": "https://tollgate.dev/problems/rate-limited", "title": "Too many requests", "status": 429,
     "detail": "…", "code": "rate_limited", "request_id": "…", "error": "Too many requests", "message": "…"}
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

TYPE_BASE: Final = "https://tollgate.dev/problems/"
CONTENT_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """One entry of the catalogue. `detail` is the default public explanation."""

    code: str
    status: int
    title: str
    detail: str

    def body(self, request_id: str, detail: str | None = None, **members: Any) -> bytes:
        """The problem as JSON bytes; further RFC 9457 members (such as `violated-policies`) by keyword."""
        text = self.detail if detail is None else detail
        more = orjson.dumps(members) if members else b""
        before, after = _frame(self.code, self.status, self.title, text, more)
        return before + orjson.dumps(request_id) + after


_REQUEST_ID: Final = "\ue000"


@lru_cache(maxsize=1024)
def _frame(code: str, status: int, title: str, detail: str, members: bytes) -> tuple[bytes, bytes]:
    """A problem's JSON before and after the request id. Floods of refusals differ in nothing else."""
    document = {
        "type": TYPE_BASE + code.replace("_", "-"),
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": _REQUEST_ID,
        "error": title,
        "message": detail,
    }
    for name, value in orjson.loads(members or b"{}").items():
        document[name.replace("_", "-")] = value
    before, _, after = orjson.dumps(document).partition(orjson.dumps(_REQUEST_ID))
    return before, after


# The request itself
BAD_REQUEST: Final = Problem("bad_request", 400, "Bad request", "The request is not valid HTTP/1.1.")
BAD_TARGET: Final = Problem("bad_target", 400, "Bad request target", "The request target is not acceptable.")
REQUEST_TIMEOUT: Final = Problem("request_timeout", 408, "Request timeout", "The request did not arrive in time.")
METHOD_NOT_ALLOWED: Final = Problem(
    "method_not_allowed", 405, "Method not allowed", "This route does not take the method."
)
BODY_TOO_LARGE: Final = Problem(
    "body_too_large", 413, "Body too large", "The request body is larger than allowed here."
)
URI_TOO_LONG: Final = Problem("uri_too_long", 414, "URI too long", "The request target is longer than allowed.")
HEADERS_TOO_LARGE: Final = Problem("headers_too_large", 431, "Headers too large", "The header section is too large.")
EXPECTATION_FAILED: Final = Problem(
    "expectation_failed", 417, "Expectation failed", "Only 100-continue can be expected."
)
VERSION_NOT_SUPPORTED: Final = Problem(
    "version_not_supported", 505, "HTTP version not supported", "This server speaks HTTP/1.1 and HTTP/1.0."
)
NOT_IMPLEMENTED: Final = Problem(
    "not_implemented", 501, "Not implemented", "The method or transfer coding is not supported."
)
UNSUPPORTED_MEDIA_TYPE: Final = Problem(
    "unsupported_media_type",
    415,
    "Unsupported media type",
    "The request body is not of a type that is understood here.",
)
NOT_FOUND: Final = Problem("not_found", 404, "Not found", "Nothing is served at this path.")
PRECONDITION_FAILED: Final = Problem(
    "precondition_failed", 412, "Changed meanwhile", "It was changed since you read it; read it again."
)
CONFLICT: Final = Problem("conflict", 409, "Conflict", "The request conflicts with what exists.")
INVALID: Final = Problem("invalid", 422, "Invalid", "Some of the values are not valid.")
IDEMPOTENCY_KEY_REUSED: Final = Problem(
    "idempotency_key_reused", 422, "Idempotency key reused", "This Idempotency-Key came with another request before."
)
KEY_SHOWN: Final = Problem(
    "key_shown", 409, "Key already shown", "This request was carried out before, and the new key was shown then."
)

# Who is it, may they
FORGED: Final = Problem("forged", 400, "Not signed", "The signature is not that of this body.")
NO_CREDENTIAL: Final = Problem(
    "no_credential", 401, "Authentication required", "Send an API key: Authorization: Bearer <key>, or X-API-Key."
)
BAD_CREDENTIAL: Final = Problem("bad_credential", 401, "Invalid credential", "This API key is not valid.")
CONFLICTING_CREDENTIALS: Final = Problem(
    "conflicting_credentials", 401, "Conflicting credentials", "Send exactly one API key."
)
KEY_EXPIRED: Final = Problem("key_expired", 401, "Key expired", "This API key has expired.")
KEY_REVOKED: Final = Problem("key_revoked", 401, "Key revoked", "This API key has been revoked.")
BAD_TOKEN: Final = Problem("bad_token", 401, "Invalid token", "This token is not valid.")
TOKEN_EXPIRED: Final = Problem("token_expired", 401, "Token expired", "This token has expired.")
FORBIDDEN: Final = Problem("forbidden", 403, "Forbidden", "This key may not do that.")
CSRF: Final = Problem("csrf", 403, "Not from a page of ours", "A request with a session's cookie needs its CSRF token.")
WRONG_PROJECT: Final = Problem("wrong_project", 403, "Wrong project", "This key belongs to another project.")
SCOPE_MISSING: Final = Problem("scope_missing", 403, "Scope missing", "This key lacks a scope that the route asks for.")
ORIGIN_NOT_ALLOWED: Final = Problem(
    "origin_not_allowed", 403, "Origin not allowed", "This key is not allowed from here."
)
IP_NOT_ALLOWED: Final = Problem("ip_not_allowed", 403, "Address not allowed", "This key is not allowed from here.")
ADDRESS_REFUSED: Final = Problem(
    "address_refused", 403, "Address refused", "Requests from this address are not taken here."
)
TIER_UNKNOWN: Final = Problem("tier_unknown", 403, "Unknown plan", "X-User-Plan names no tier of this project.")

# Signing in
LINK_INVALID: Final = Problem(
    "link_invalid", 401, "Link not valid", "This sign-in link was used, is older than 15 minutes, or was never made."
)
NOT_SIGNED_IN: Final = Problem("not_signed_in", 401, "Not signed in", "Sign in first: POST /auth/magic-link.")
TOO_MANY_TRIES: Final = Problem("too_many_tries", 429, "Too many tries", "Too many tries; wait a little.")

# How much
RATE_LIMITED: Final = Problem("rate_limited", 429, "Too many requests", "The request rate is above the limit.")
SPEND_CAP_REACHED: Final = Problem(
    "spend_cap_reached", 402, "Spend cap reached", "What overage may cost in this period is used up."
)
TOO_MANY_UNKNOWN_KEYS: Final = Problem(
    "too_many_unknown_keys", 429, "Too many unknown keys", "Too many keys that do not exist came from this address."
)
QUOTA_EXCEEDED: Final = Problem("quota_exceeded", 429, "Quota exceeded", "The quota of this period is used up.")

TOO_MANY_AT_ONCE: Final = Problem(
    "too_many_at_once", 429, "Too many requests at once", "Too many requests are under way at once."
)
OVERLOADED: Final = Problem(
    "overloaded", 503, "Service unavailable", "As many requests as this takes at once are under way."
)

# What stands behind
UPSTREAM_UNREACHABLE: Final = Problem("upstream_unreachable", 502, "Bad gateway", "The upstream could not be reached.")
UPSTREAM_FAILED: Final = Problem("upstream_failed", 502, "Bad gateway", "The upstream broke off its answer.")
UPSTREAM_INVALID: Final = Problem("upstream_invalid", 502, "Bad gateway", "The upstream's answer is not valid HTTP.")
UPSTREAM_TIMEOUT: Final = Problem("upstream_timeout", 504, "Gateway timeout", "The upstream did not answer in time.")
NOT_KEPT: Final = Problem(
    "not_kept", 504, "Gateway timeout", "Only what is kept was asked for (only-if-cached), and it is not kept."
)
CIRCUIT_OPEN: Final = Problem(
    "circuit_open", 503, "Service unavailable", "The upstream has failed repeatedly; it is tried again soon."
)
UPSTREAM_BUSY: Final = Problem(
    "upstream_busy", 503, "Service unavailable", "All connections to the upstream are in use."
)
CREDENTIAL_UNAVAILABLE: Final = Problem(
    "credential_unavailable", 503, "Service unavailable", "What the upstream asks for cannot be read at the moment."
)
AUTH_UNAVAILABLE: Final = Problem(
    "auth_unavailable", 503, "Service unavailable", "Credentials cannot be checked at the moment."
)
LIMITS_UNAVAILABLE: Final = Problem(
    "limits_unavailable", 503, "Service unavailable", "Limits cannot be checked at the moment."
)
STORE_UNAVAILABLE: Final = Problem(
    "store_unavailable", 503, "Service unavailable", "The database cannot be asked at the moment."
)
BACKLOG_FULL: Final = Problem(
    "backlog_full",
    503,
    "Service unavailable",
    "Usage cannot be recorded at the moment; nothing is let through uncounted.",
)
STARTING: Final = Problem("starting", 503, "Service unavailable", "The gateway is starting.")
INTERNAL: Final = Problem(
    "internal", 500, "Internal error", "Something went wrong here. The request id finds it in the log."
)
