"""What happened to one request on its way through the gateway, step by step, told from its answer and usage event. Pure.

The steps are those of every request (docs/limits-and-headers.md): a route matches, the caller is known, the limits allow
it, it is forwarded, it is counted. Where the gateway refuses, its problem's code says at which step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from ledger.problems import CONTENT_TYPE, TYPE_BASE

_LIMITS: Final = frozenset(
    ("rate_limited", "quota_exceeded", "spend_cap_reached", "too_many_at_once", "limits_unavailable", "overloaded")
)
_FORWARDING: Final = frozenset(("circuit_open", "credential_unavailable", "body_too_large"))
_MATCHING: Final = frozenset(("not_found", "method_not_allowed", "bad_request", "bad_target", "uri_too_long"))


class State(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"
    NOT_REACHED = "later"


@dataclass(frozen=True, slots=True)
class Step:
    """One of them. `title` is what came of it, `detail` why, and `code` the gateway's where it refused."""

    state: State
    title: str
    detail: str = ""
    code: str = ""


def steps(route: str, result: Mapping[str, Any], event: Mapping[str, Any] | None) -> list[Step]:
    """The life of the request that was tried on `route`. `result` as admin.web.trial has it, of a request with an answer."""
    code, why = _refusal(result)
    failed = len(_NAMES) if code is None else _step_of(code)
    refused = "" if code is None else why
    found = []
    for number, (name, otherwise) in enumerate(_NAMES):
        if number == failed:
            found.append(Step(State.FAILED, otherwise, refused, code or ""))
        elif number > failed:
            found.append(Step(State.NOT_REACHED, name))
        else:
            title, detail = _told(number, name, route, result, event)
            found.append(Step(State.DONE, title, detail))
    found.append(_counted(result, event))
    return found


_NAMES: Final = (
    ("Route matched", "No route took it"),
    ("Caller known", "Caller refused"),
    ("Within the limits", "Refused by a limit"),
    ("Forwarded", "Forwarding failed"),
)


def _refusal(result: Mapping[str, Any]) -> tuple[str | None, str]:
    """The code and detail of the gateway's own problem; None for an answer that is not one."""
    content_type = {name.lower(): value for name, value in result["headers"].items()}.get("content-type", "")
    if not content_type.startswith(CONTENT_TYPE):
        return None, ""
    try:
        problem = orjson.loads(result["body"])
    except orjson.JSONDecodeError:
        return None, ""
    if not isinstance(problem, dict) or not str(problem.get("type", "")).startswith(TYPE_BASE):
        return None, ""
    return str(problem.get("code", "")), str(problem.get("detail", ""))


def _step_of(code: str) -> int:
    """At which step a problem of this code is."""
    if code in _MATCHING:
        return 0
    if code in _LIMITS:
        return 2
    return 3 if code in _FORWARDING or code.startswith("upstream_") else 1


def _told(
    number: int, name: str, route: str, result: Mapping[str, Any], event: Mapping[str, Any] | None
) -> tuple[str, str]:
    if number == 0:
        taken = event["route"] if event is not None and event["route"] else None
        if taken is not None and taken != route:
            return f"Another route took it: {taken}", "The most specific path wins; this one asks for less."
        return name, taken or ""
    if number == 1:
        who = [f"customer {result['user']}"] if result["user"] else []
        who += [f"tier {event['tier']}"] if event is not None and event["tier"] else []
        return name, ", ".join(["a key made for this" if result["has_key"] else "nobody is asked", *who])
    if number == 2:
        left = {header.lower(): value for header, value in result["headers"].items()}.get("ratelimit", "")
        return name, _left(left) or "no limit holds here"
    took = "" if event is None else f"; the upstream took {event['upstream_us'] / 1000:.1f} ms"
    return name, f"answer {result['status']} after {result['took_ms']:.1f} ms{took}"


def _left(field: str) -> str:
    """`"minute";r=59;t=12, "requests";r=9998` as "59 left of minute, 9,998 left of requests"."""
    found = []
    for policy in field.split(","):
        name, *parameters = (part.strip() for part in policy.split(";"))
        remaining = next((one[2:] for one in parameters if one.startswith("r=")), "")
        if name and remaining.isdecimal():
            plain = name.strip('"')
            found.append(f"{int(remaining):,} left of {plain}")
    return ", ".join(found)


def _counted(result: Mapping[str, Any], event: Mapping[str, Any] | None) -> Step:
    if event is None:
        return Step(State.NOT_REACHED, "Not counted", "There is no usage event of it (yet).")
    meters: Sequence[str] = [f"{name}: {quantity:,}" for name, quantity in event["meters"].items()]
    outcome = str(event["outcome"]).replace("_", " ")
    return Step(State.DONE, "Counted", f"{', '.join(meters) or 'nothing'}; outcome {outcome}")
