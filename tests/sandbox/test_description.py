"""What /openapi.json says of the code runner is what it does: paths, fields, bounds, and the form of answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest
from aiohttp import web

from config.runner_api import runner_api
from config.settings import SandboxSettings
from sandbox.api import Api
from sandbox.functions import Functions
from sandbox.nouns import Language, Reason
from sandbox.request import _Policy, _Run
from tests.sandbox.service import Asker, service

API = runner_api()
SCHEMAS: dict[str, Any] = API["components"]["schemas"]


def fits(document: Any, schema: dict[str, Any]) -> None:
    """Raises where a document is not as a schema says."""
    jsonschema_rs.validate({**schema, "components": {"schemas": SCHEMAS}}, document)


@pytest.fixture
async def asker(empty_postgres_url: str) -> AsyncIterator[Asker]:
    async with service(empty_postgres_url, warm_node=0) as asker:
        yield asker


def test_every_route_is_described_and_nothing_else() -> None:
    app = web.Application()
    for handlers in (Api, Functions):
        handlers.add_to(object.__new__(handlers), app)
    served = {
        (route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", str(route.resource.canonical)))
        for route in app.router.routes()
        if route.resource is not None and route.method not in ("HEAD", "*")
    }
    described = {(method.upper(), path) for path, operations in API["paths"].items() for method in operations}
    assert described == served


def test_fields_and_bounds_are_those_of_the_models() -> None:
    def names(model: Any) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    asked = SCHEMAS["RunRequest"]["properties"]
    assert set(asked) == names(_Run)
    assert set(asked["policy"]["properties"]) == names(_Policy)
    assert set(asked["lang"]["enum"]) == {language.value for language in Language}
    assert set(SCHEMAS["RunResult"]["properties"]["reason"]["enum"]) == {reason.value for reason in Reason}
    made = _Policy.model_json_schema(by_alias=True)["properties"]
    for name in ("timeoutMs", "memoryMB", "maxOutputBytes"):
        told = asked["policy"]["properties"][name]
        assert (told["minimum"], told["default"]) == (made[name]["minimum"], made[name]["default"])
    assert asked["policy"]["properties"]["timeoutMs"]["maximum"] == SandboxSettings().max_timeout_ms


async def test_answers_have_the_form_that_is_told(asker: Asker) -> None:
    everything = {
        "lang": "python",
        "files": [{"path": "main.py", "content": "open('out/x', 'w').write('y'); print(1)"}],
        "policy": {"timeoutMs": 20_000, "allowNet": True, "allowedHosts": ["*.example.com"]},
        "userContext": {"id": "u"},
    }
    fits(everything, SCHEMAS["RunRequest"])
    _, reply = await asker.run(everything)
    assert set(reply) >= {"artifacts", "network", "userContext"}
    fits(reply, SCHEMAS["RunResult"])
    assert set(reply) <= set(SCHEMAS["RunResult"]["properties"])
    _, listed, _ = await asker.ask("GET", "/api/runs")
    fits(listed, API["paths"]["/api/runs"]["get"]["responses"]["200"]["content"]["application/json"]["schema"])
    saved = {"name": "f", "public": True, "lang": "python", "code": "print(1)"}
    fits(saved, SCHEMAS["InstantEndpointRequest"])
    status, made, _ = await asker.ask("POST", "/api/endpoints", saved)
    assert status == 201
    fits(made, SCHEMAS["InstantEndpoint"])
    for wrong in ({"lang": "python", "code": "1", "more": 1}, {"lang": "ruby"}, {"lang": "python", "files": []}):
        with pytest.raises(jsonschema_rs.ValidationError):
            fits(wrong, SCHEMAS["RunRequest"])
        assert (await asker.run(wrong))[0] == 400
