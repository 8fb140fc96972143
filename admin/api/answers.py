"""Answers as HTTP: replies, and every failure as problem+json. The one place where errors get a status."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from admin.api.call import Denied, Reply
from admin.changes import Refused, Unfit
from admin.declare import DeclarationError, Fault
from admin.declare.faults import path_text
from admin.store import StoreUnavailable
from ledger import problems
from ledger.problems import Problem

RETRY_AFTER_S: Final = 2
_MOST_ERRORS: Final = 100
_NO_STORE: Final = {"Cache-Control": "no-store"}
_OF_STATUS: Final = {
    404: problems.NOT_FOUND,
    405: problems.METHOD_NOT_ALLOWED,
    408: problems.REQUEST_TIMEOUT,
    413: problems.BODY_TOO_LARGE,
    415: problems.UNSUPPORTED_MEDIA_TYPE,
    417: problems.EXPECTATION_FAILED,
}

log = logging.getLogger(__name__)


def of_reply(reply: Reply) -> web.Response:
    """A reply as a response."""
    headers = {**_NO_STORE, **reply.headers}
    if reply.location is not None:
        headers["Location"] = reply.location
    if reply.text is not None:
        return web.Response(text=reply.text, status=reply.status, headers=headers, content_type=reply.content_type)
    if reply.status == 204:
        return web.Response(status=204, headers=headers)
    body = orjson.dumps(reply.data)
    return web.Response(body=body, status=reply.status, headers=headers, content_type="application/json")


def of_error(error: Exception, request_id: str) -> web.Response:
    """Whatever went wrong as a response; what nobody foresaw is logged and told without its inside."""
    if isinstance(error, Denied):
        return _problem(error.problem, request_id, error.detail, error.errors, error.headers)
    if isinstance(error, DeclarationError):
        return _problem(problems.INVALID, request_id, str(error.faults[0]), error.faults)
    if isinstance(error, Refused):
        problem = problems.INVALID if isinstance(error, Unfit) else problems.CONFLICT
        fault = Fault(None, None, path_text(error.path), error.message)
        return _problem(problem, request_id, str(fault), [fault] if error.path else [])
    if isinstance(error, StoreUnavailable):
        detail = (
            f"{error}. Nothing was changed." if error.is_certain else f"{error}. Whether it was done is not certain."
        )
        return _problem(problems.STORE_UNAVAILABLE, request_id, detail, headers={"Retry-After": str(RETRY_AFTER_S)})
    if isinstance(error, web.HTTPException):
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _problem(_OF_STATUS.get(error.status, problems.BAD_REQUEST), request_id, headers=allow)
    log.error("a request failed", exc_info=error, extra={"request_id": request_id})
    return _problem(problems.INTERNAL, request_id)


def _problem(
    problem: Problem,
    request_id: str,
    detail: str | None = None,
    errors: Iterable[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    members: dict[str, Any] = {}
    if shown := [_error(fault) for fault in errors][:_MOST_ERRORS]:
        members["errors"] = shown
    return web.Response(
        body=problem.body(request_id, detail, **members),
        status=problem.status,
        headers={**_NO_STORE, **(headers or {})},
        content_type=problems.CONTENT_TYPE,
    )


def _error(fault: Fault) -> dict[str, Any]:
    place = {} if fault.line is None else {"line": fault.line, "column": fault.column}
    return {"field": fault.path, "message": fault.message, **place}
