"""The description of the API: what it says is so, tried by machine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as described

from admin.api import auth
from admin.app import ENDPOINTS
from tests.admin.api.conftest import World

CHECKS = [
    not_a_server_error,
    described.response_schema_conformance,
    described.content_type_conformance,
    described.status_code_conformance,
]
SKIPPED = {"post_data", "get_usage"}
"""What the gateway answers."""


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


async def test_people_read_it_offline(world: World) -> None:
    async with world.session.get(world.where.url + "/docs") as response:
        text = await response.text()
        assert (response.status, "script-src 'self'" in response.headers["Content-Security-Policy"]) == (200, True)
    assert text.count("<details") >= len(ENDPOINTS)
    assert "allowedDomains" in text


@pytest.mark.timeout(300)
async def test_no_request_that_fits_or_does_not_fit_the_description_breaks_it(world: World) -> None:
    """schemathesis: no 5xx, and every answer is as described."""
    schema = schemathesis.openapi.from_dict(await document(world))
    keys = {"project": world.test.key, "platform": world.platform.key}
    failures = await asyncio.to_thread(try_all, schema, world.where.url, keys)
    assert failures == [], "\n\n".join(failures)


def try_all(schema: Any, url: str, keys: dict[str, str | None]) -> list[str]:
    failures = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.definition.raw["operationId"] in SKIPPED or operation.path == "/api/v1/project":
            continue  # the project stays
        key = keys["platform"] if operation.path.startswith("/api/v1/projects") else keys["project"]
        is_ours = operation.path.startswith(("/auth", "/projects"))
        headers = {"Accept": "application/json"} | ({} if is_ours else {"Authorization": f"Bearer {key}"})
        try:
            attempts(operation, url, headers)()
        except Exception as error:  # noqa: BLE001 - all of them are told together
            failures.append(f"{operation.method} {operation.path}: {str(error)[:600]}")
    return failures


def attempts(operation: Any, url: str, headers: dict[str, str]) -> Any:
    """A property: whatever is sent to the operation, the answer is as described."""

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
        case.validate_response(case.call(base_url=url, headers=headers), checks=CHECKS)

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
