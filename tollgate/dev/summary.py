"""What `tollgate dev` tells its user, for machines (dev.json) and for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.redact import redact
from config.settings import Settings
from tollgate.dev.demo import CUSTOMER, PROJECT, Demo
from tollgate.dev.planes import base_url, gateway_url


def info(settings: Settings, demo: Demo | None, pids: Mapping[str, Any], sign_in: str | None = None) -> dict[str, Any]:
    """The content of dev.json. Without a demo its project, customer and keys are null; a server that is not ours has
    no process id."""
    gateway, admin, worker, sandbox = settings.gateway, settings.admin, settings.worker, settings.sandbox
    return {
        "gateway": gateway_url(settings),
        "admin": base_url(admin.host, admin.port),
        "metrics": {
            "gateway": base_url(gateway.host, gateway.metrics_port) + "/metrics",
            "admin": base_url(admin.host, admin.metrics_port) + "/metrics",
            "worker": base_url(worker.host, worker.metrics_port) + "/metrics",
            "sandbox": base_url(sandbox.host, sandbox.metrics_port) + "/metrics",
        },
        "sandbox": base_url(sandbox.host, sandbox.port),
        "postgres": settings.postgres_url.get_secret_value() if settings.postgres_url else None,
        "redis": settings.redis_url.get_secret_value() if settings.redis_url else None,
        "project": {"id": demo.project_id, "name": PROJECT} if demo else None,
        "customer": {"id": demo.customer_id, "externalId": CUSTOMER} if demo else None,
        "keys": dict(demo.keys) if demo else None,
        "signIn": sign_in,
        "pids": dict(pids),
    }


def text(found: Mapping[str, Any], state_dir: Path) -> str:
    """The summary printed once everything runs. Its curl lines can be pasted as they are."""
    lines = ["", "Tollgate is ready.", ""]
    rows = [("gateway", found["gateway"]), ("admin", found["admin"])]
    rows += [(f"metrics, {plane}", url) for plane, url in found["metrics"].items()]
    rows += [("postgres", redact(found["postgres"])), ("redis", redact(found["redis"]))]
    rows += [("details", str(state_dir / "dev.json"))]
    if found["signIn"]:
        rows += [("sign in", found["signIn"])]
    if found["keys"]:
        rows += [("", ""), ("project", f"{found['project']['name']}  {found['project']['id']}")]
        rows += [("customer", f"{found['customer']['externalId']}  {found['customer']['id']}")]
        rows += [(f"{name} key", key) for name, key in found["keys"].items()]
    lines += [f"  {label:<16}  {value}".rstrip() for label, value in rows]
    if found["keys"]:
        customer, gateway = found["keys"]["customer"], found["gateway"]
        lines += [
            "",
            "Try it:",
            "",
            f"  curl -i -H 'Authorization: Bearer {customer}' {gateway}/demo/hello",
            f"  curl -X POST -H 'X-API-Key: {customer}' -H 'Content-Type: application/json' -d '{{\"quantity\": 1}}'"
            f" {gateway}/api/data",
            f"  curl -H 'X-API-Key: {customer}' -H 'Content-Type: application/json'"
            f' -d \'{{"lang": "python", "code": "print(6 * 7)"}}\' {gateway}/api/run',
            f"  curl -H 'X-API-Key: {customer}' {gateway}/api/usage",
        ]
    return "\n".join([*lines, "", "Ctrl-C stops it.", ""])
