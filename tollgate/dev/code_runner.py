"""The code runner as declarations: the sandbox as an ordinary upstream, its API as ordinary routes. Pure.

What a run used is read from the answer: its headers, and of an event stream the last event. A run that was lost with its
sandbox costs nothing.
"""

from __future__ import annotations

from typing import Any, Final

from ledger.specs import RouteSpec, UpstreamSpec

UPSTREAM: Final = "sandbox"
_READ_TIMEOUT_MS: Final = 330_000
"""Longer than the longest run and its wait for a turn."""
_COMMON: Final[dict[str, Any]] = {"upstream": UPSTREAM, "strip_prefix": False, "scopes": ["run"]}
_PER_ADDRESS: Final = {"requests_per_minute_per_ip": 120}
_COUNTED: Final = _COMMON | {"on_upstream_failure": "free", "read_timeout_ms": _READ_TIMEOUT_MS}
_BY_HEADER: Final = {
    "requests": 1,
    "runs": "header:X-Usage-Runs",
    "cpu_ms": "header:X-Usage-Cpu-Ms",
    "mem_mb_s": "header:X-Usage-Mem-Mb-S",
}
_BY_EVENT: Final = {"requests": 1, "runs": "$.usage.runs", "cpu_ms": "$.usage.cpuMs", "mem_mb_s": "$.usage.memMBs"}


def upstream(urls: str) -> UpstreamSpec:
    """All nodes of the sandbox; `urls` have commas between them."""
    targets = [url.strip() for url in urls.split(",")]
    return UpstreamSpec.model_validate({"name": UPSTREAM, "targets": targets})


def run_routes(prefix: str = "") -> tuple[RouteSpec, ...]:
    """Runs, below a prefix such as /platform that the sandbox does not see."""
    run = _COUNTED | {"methods": ["POST"], "max_body_bytes": 16_777_216}
    return _made(
        prefix,
        run | {"name": "run", "path": "/api/run", "meters": _BY_HEADER},
        run | {"name": "run-stream", "path": "/api/run/stream", "meters": _BY_EVENT},
        _COMMON | {"name": "run-result", "path": "/api/run/{id}", "methods": ["GET", "DELETE"]},
        _COMMON | {"name": "runs", "path": "/api/runs", "methods": ["GET"]},
    )


def endpoint_routes() -> tuple[RouteSpec, ...]:
    """Instant endpoints: keeping them, and calling them."""
    call = _COUNTED | {"max_body_bytes": 1_048_576, "meters": _BY_HEADER}
    return _made(
        "",
        _COMMON | {"name": "endpoints", "path": "/api/endpoints/*"},
        _COMMON | {"name": "endpoint-list", "path": "/api/endpoints"},
        call | {"name": "call", "path": "/e/*"},
        call | {"name": "call-public", "path": "/e/open/*", "scopes": [], "auth": "none", **_PER_ADDRESS},
    )


def _made(prefix: str, *routes: dict[str, Any]) -> tuple[RouteSpec, ...]:
    if prefix:
        routes = tuple(route | {"path": prefix + route["path"], "rewrite": route["path"]} for route in routes)
    return tuple(RouteSpec.model_validate(route) for route in routes)
