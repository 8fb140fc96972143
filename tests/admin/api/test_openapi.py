"""The description of the API: what it says is so, tried by machine."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as described

from admin.api import auth
from admin.app import ENDPOINTS
from config.runner_api import runner_api
from ledger.ids import PLATFORM_PROJECT_ID
from tests.admin.api.conftest import World
from tests.admin.api.test_usage import used
from tests.admin.people import signed_in
from tests.admin.web.conftest import Enter, enter
from tests.admin.web.person import Person

__all__ = ["enter", "used"]

CHECKS = [
    not_a_server_error,
    described.response_schema_conformance,
    described.content_type_conformance,
    described.status_code_conformance,
]
OF_OTHERS = {"post_data", "get_usage"} | {
    operation["operationId"] for operations in runner_api()["paths"].values() for operation in operations.values()
}
"""What the gateway and the sandbox answer."""


async def document(world: World) -> dict[str, Any]:
    async with world.session.get(world.where.url + "/openapi.json") as response:
        assert response.status == 200
        found: dict[str, Any] = json.loads(await response.text())
        return found


async def test_every_endpoint_is_described(world: World) -> None:
    found = await document(world)
    assert found["openapi"] == "3.1.0"
    for endpoint in (*ENDPOINTS, *auth.ENDPOINTS):
        operation = found["paths"][endpoint.path][endpoint.method.lower()]
        assert operation["summary"]
    names = [one["operationId"] for path in found["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))


async def test_bodies_are_those_of_the_models(world: World) -> None:
    found = await document(world)
    tier = found["components"]["schemas"]["TierSpec"]
    assert "quotas" in tier["properties"]
    assert "modes" not in tier["properties"]  # a key serves one mode


async def test_answers_are_described_by_what_is_stored(world: World) -> None:
    found = await document(world)
    schemas = found["components"]["schemas"]
    referred = set(re.findall(r"#/components/schemas/([A-Za-z]+)", json.dumps(found)))
    assert referred <= schemas.keys()
    for name, field in (("Tier", "quotas"), ("Customer", "external_id"), ("Route", "path"), ("Key", "scopes")):
        assert {"id", "created_at", field} <= set(schemas[name]["required"]), name
        assert not {"mode", "modes"} & schemas[name]["properties"].keys(), name
    answer = found["paths"]["/api/v1/tiers"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["properties"]["data"]["items"] == {"$ref": "#/components/schemas/Tier"}


async def test_people_read_it_offline(world: World) -> None:
    async with world.session.get(world.where.url + "/docs") as response:
        text = await response.text()
        assert (response.status, "script-src 'self'" in response.headers["Content-Security-Policy"]) == (200, True)
    assert text.count("<details") >= len(ENDPOINTS)
    assert "allowedDomains" in text


@pytest.mark.timeout(300)
async def test_no_request_that_fits_or_does_not_fit_the_description_breaks_it(
    world: World, enter: Enter, used: dict[str, Any]
) -> None:
    """schemathesis over every operation: no 5xx, every answer as described, and each got further than being refused."""
    schema = schemathesis.openapi.from_dict(await document(world))
    owner = await enter("owner@example.com")
    callers = Callers(
        {"Authorization": f"Bearer {world.test.key}"},
        {"Authorization": f"Bearer {world.platform.key}"},
        {
            "Cookie": "; ".join(f"{name}={value}" for name, value in owner.browser.cookies.items()),
            "X-CSRF-Token": owner.browser.csrf,
            "Tollgate-Project": world.shop_id,
        },
    )
    ids = await objects(world, owner) | {"event": used["ids"][0]}
    failures, refused = await asyncio.to_thread(try_all, schema, world.where.url, callers, ids)
    assert failures == [], "\n\n".join(failures)
    assert refused == []


@dataclass(frozen=True)
class Callers:
    """The headers of who may call what."""

    project: dict[str, str]
    platform: dict[str, str]
    person: dict[str, str]

    def of(self, operation_id: str, path: str, description: str) -> dict[str, str]:
        if path.startswith(("/auth", "/projects")) or any(f"`{needed}`" in description for needed in FOR_PEOPLE):
            return self.person
        return self.platform if "platform's own project" in description else self.project


FOR_PEOPLE = ("members.read", "members.write", "project.delete")
"""What no key may do."""


async def objects(world: World, owner: Person) -> dict[str, str]:
    """Something of each noun that may go, by the first word of its paths."""
    found = {"members": owner.account_id, "projects": world.rival_id}
    bodies: dict[str, dict[str, Any]] = {
        "tiers": {"name": "spare"},
        "customers": {"external_id": "spare"},
        "issuers": {"name": "spare", "issuer": "https://spare.example", "jwks_url": "https://spare.example/jwks"},
        "upstreams": {"name": "spare", "targets": ["http://127.0.0.1:1"]},
        "routes": {"name": "spare", "path": "/spare", "upstream": "spare"},
        "keys": {"name": "spare"},
        "webhooks": {"url": "https://spare.example"},
    }
    for noun, body in bodies.items():
        made = await world.test.post(f"/api/v1/{noun}", body)
        assert made.status == 201, made.text
        found[noun] = made.json["id"]
    invited = await owner.browser.post("/api/v1/invitations", {"email": "spare@example.com", "role": "viewer"})
    for name, project_id in (("accepted", world.rival_id), ("declined", PLATFORM_PROJECT_ID)):
        await world.pg.execute(
            "INSERT INTO invitations (id, project_id, email, role, invited_by, expires_at) VALUES"
            " ($1, $2, 'owner@example.com', 'viewer', 'cli', now() + interval '1 day')",
            f"inv_{name}",
            project_id,
        )
        found[name] = f"inv_{name}"
    await signed_in(world.pg, world.where.url, world.session, "owner@example.com")  # on another device
    sessions = (await owner.browser.get("/auth/sessions")).json["data"]
    found["sessions"] = next(one["id"] for one in sessions if not one["isThis"])
    await world.test.post(f"/api/v1/webhooks/{found['webhooks']}/test")
    return {**found, "invitations": invited.json["id"]}


def try_all(schema: Any, url: str, callers: Callers, ids: dict[str, str]) -> tuple[list[str], list[str]]:
    """What went wrong, and the operations that never got further than 401, 403 or 404."""
    failures, refused = [], []
    operations = [result.ok() for result in schema.get_all_operations()]
    for operation in sorted(operations, key=_last):
        raw = operation.definition.raw
        if raw["operationId"] in OF_OTHERS:
            continue
        headers = {"Accept": "application/json", **callers.of(raw["operationId"], operation.path, str(raw))}
        statuses: set[int] = set()
        try:
            attempts(operation, url, headers, ids, statuses)()
        except Exception as error:  # noqa: BLE001 - all of them are told together
            failures.append(f"{operation.method} {operation.path}: {str(error)[:600]}")
        if statuses <= {401, 403, 404}:
            refused.append(raw["operationId"])
    return failures, refused


def _last(operation: Any) -> int:
    """What ends something comes when everything else was tried, and signing out at the very end."""
    if operation.method.upper() != "DELETE":
        return 4 if operation.path == "/auth/logout" else 0
    return {"/api/v1/project": 2, "/auth/sessions/{id}": 3}.get(operation.path, 1)


def attempts(operation: Any, url: str, headers: dict[str, str], ids: dict[str, str], statuses: set[int]) -> Any:
    """A property: whatever is sent to the operation, the answer is as described. Each second time of what exists."""
    noun = operation.path.removeprefix("/api/v1/").removeprefix("/api/").removeprefix("/auth/").partition("/")[0]
    if operation.path.startswith("/auth/invitations"):
        noun = "declined" if operation.method.upper() == "DELETE" else "accepted"
    turn = itertools.count()

    @settings(
        max_examples=20,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def attempt(case: Any) -> None:
        if next(turn) % 2 == 0:
            for name, known in (("id", ids.get(noun)), ("event", ids["event"]), ("delivery", "dlv_1")):
                if case.path_parameters and name in case.path_parameters and known is not None:
                    case.path_parameters[name] = known
        response = case.call(base_url=url, headers=headers)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    return attempt


async def test_updates_take_what_was_read(world: World) -> None:
    made = await world.test.post("/api/v1/tiers", {"name": "gold"})
    path = made.headers["Location"]
    first = (await world.test.get(path)).headers["ETag"]
    same = (await world.test.get(path)).headers["ETag"]
    assert first == same
    changed = await world.test("PATCH", path, {"title": "Gold"}, If_Match=first)
    assert (changed.status, changed.headers["ETag"] != first) == (200, True)
    for method, body in (("PATCH", {"title": "Stale"}), ("DELETE", None)):
        stale = await world.test(method, path, body, If_Match=first)
        assert (stale.status, stale.code) == (412, "precondition_failed")
    assert (await world.test.get(path)).json["title"] == "Gold"
    assert (await world.test("PATCH", path, {"title": "Any"}, If_Match="*")).status == 200
    both = f'"x", {(await world.test.get(path)).headers["ETag"]}'
    assert (await world.test("DELETE", path, None, If_Match=both)).status == 204


async def test_of_two_updates_of_one_reading_one_wins(world: World) -> None:
    path = (await world.test.post("/api/v1/tiers", {"name": "gold"})).headers["Location"]
    tag = (await world.test.get(path)).headers["ETag"]
    answers = await asyncio.gather(*(world.test("PATCH", path, {"title": f"T{n}"}, If_Match=tag) for n in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 412, 412, 412, 412]
