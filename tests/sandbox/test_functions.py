"""Instant endpoints: saved, called, edited in place, logged; public or for the project's keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.sandbox.service import Asker, service

ECHO = """
import json, sys
event = json.load(sys.stdin)
print(json.dumps({"status": 201, "headers": {"X-Made": "here", "Set-Cookie": "a=b", "X-Usage-Runs": "0"}, "body": event}))
"""


@pytest.fixture
async def asker(empty_postgres_url: str) -> AsyncIterator[Asker]:
    async with service(empty_postgres_url) as asker:
        yield asker


async def make(asker: Asker, code: str = ECHO, **more: Any) -> dict[str, Any]:
    status, made, _ = await asker.ask("POST", "/api/endpoints", {"lang": "python", "code": code, **more})
    assert status == 201, made
    return dict(made)


async def test_a_function_is_called(asker: Asker) -> None:
    made = await make(asker, name="echo")
    assert made["url"] == f"/e/{made['id']}"
    status, event, headers = await asker.ask(
        "POST", made["url"] + "/a/b?x=1&y=é", {"k": "v"}, **{"X-Mine": "kept", "Cookie": "secret"}
    )
    assert status == 201
    assert (event["method"], event["path"], event["query"], json.loads(event["body"])) == (
        "POST",
        "/a/b",
        {"x": "1", "y": "é"},
        {"k": "v"},
    )
    assert event["headers"]["x-mine"] == "kept"
    assert not [name for name in event["headers"] if name.startswith(("x-tollgate", "cookie", "authorization"))]
    assert (headers["X-Made"], headers["X-Usage-Runs"]) == ("here", "1")
    assert "Set-Cookie" not in headers
    _, log, _ = await asker.ask("GET", f"/api/endpoints/{made['id']}/calls")
    assert [(call["method"], call["path"], call["status"]) for call in log["calls"]] == [("POST", "/a/b", 201)]
    assert log["calls"][0]["run"] == headers["X-Run-Id"]
    assert (await asker.ask("GET", f"/api/run/{headers['X-Run-Id']}"))[1]["ok"] is True


async def test_bytes_and_plain_text(asker: Asker) -> None:
    made = await make(asker, "import json, sys; e = json.load(sys.stdin); print(e.get('bodyBase64'), 'body' in e)")
    async with asker.session.put(asker.url + made["url"], data=b"\xff\x00", headers=asker.headers()) as response:
        assert (response.status, await response.text()) == (200, "/wA= False\n")
        assert response.content_type == "text/plain"


async def test_edited_in_place(asker: Asker) -> None:
    made = await make(asker, "print('[1]')")
    body = {"lang": "node", "code": "console.log('{\"n\": 2}')", "name": "two"}
    status, changed, _ = await asker.ask("PUT", f"/api/endpoints/{made['id']}", body)
    assert (status, changed["revision"], changed["lang"], changed["id"]) == (200, 2, "node", made["id"])
    assert (await asker.ask("GET", made["url"]))[1] == {"n": 2}
    _, page, _ = await asker.ask("GET", "/api/endpoints")
    assert [(each["name"], each["public"]) for each in page["endpoints"]] == [("two", False)]
    async with asker.session.delete(f"{asker.url}/api/endpoints/{made['id']}", headers=asker.headers()) as response:
        assert response.status == 204
    assert (await asker.ask("GET", made["url"]))[0] == 404


async def test_who_may_call_and_change(asker: Asker) -> None:
    projects, customers = await make(asker), await make(replace(asker, kind="ck", customer="cus_a"))
    someone, stranger = replace(asker, kind="ck", customer="cus_b"), replace(asker, project="prj_b")
    assert (await someone.ask("GET", projects["url"]))[0] == 201  # the project's functions are for its customers
    assert (await someone.ask("GET", customers["url"]))[0] == 404
    assert (await asker.ask("GET", customers["url"]))[0] == 201
    for other in (someone, stranger, replace(asker, mode="live")):
        assert (await other.ask("GET", f"/api/endpoints/{projects['id']}"))[0] == 404
        assert (await other.ask("PUT", f"/api/endpoints/{projects['id']}", {}))[0] == 404
        assert (await other.ask("DELETE", f"/api/endpoints/{projects['id']}"))[0] == 404
        assert (await other.ask("GET", "/api/endpoints"))[1]["endpoints"] == []
    assert (await stranger.ask("GET", projects["url"]))[0] == 404
    nobody = replace(asker, kind="none", customer="")
    assert (await nobody.ask("POST", "/api/endpoints", {"lang": "python", "code": "1"}))[0] == 403
    assert (await nobody.ask("GET", "/e/open/" + projects["id"]))[0] == 404


async def test_public_ones(asker: Asker) -> None:
    made = await make(asker, public=True)
    assert made["url"] == f"/e/open/{made['id']}"
    nobody = replace(asker, kind="none", customer="", mode="live")
    status, _, headers = await nobody.ask("GET", made["url"])
    assert (status, headers["X-Usage-Runs"]) == (201, "1")
    assert (await nobody.ask("GET", f"/api/run/{headers['X-Run-Id']}"))[0] == 404
    assert (await replace(nobody, project="prj_b").ask("GET", made["url"]))[0] == 404


async def test_functions_that_fail_say_little(asker: Asker) -> None:
    made = await make(asker, "raise ValueError('internal detail')")
    status, told, _ = await asker.ask("GET", made["url"])
    assert (status, told["reason"]) == (500, "exit")
    assert "internal detail" not in json.dumps(told)
    assert "internal detail" in (await asker.ask("GET", f"/api/run/{told['run']}"))[1]["stderr"]
    made = await make(asker, "while 1: pass", policy={"timeoutMs": 200})
    assert (await asker.ask("GET", made["url"]))[0] == 504
    for answer in ({"status": 99}, {"status": "200"}, {"headers": []}, {"status": True}):
        made = await make(asker, f"print({json.dumps(json.dumps(answer))})")
        assert (await asker.ask("GET", made["url"]))[0] == 502, answer
    made = await make(
        asker, 'print(\'{"headers": {"X": "a\\\\r\\\\nY: b", "Content-Length": "9", "Bad Name": "x"}, "body": [1]}\')'
    )
    status, told, headers = await asker.ask("GET", made["url"])
    assert (status, told) == (200, [1])
    assert not {"X", "Y", "Bad Name"} & set(headers)


async def test_what_is_wrong_is_named(asker: Asker) -> None:
    for body, field in (
        ({"lang": "cobol", "code": ""}, "lang"),
        ({"lang": "python", "code": "", "stdin": "x"}, "stdin"),
        ({"lang": "python", "code": "", "public": "yes"}, "public"),
        ({"lang": "python", "code": "", "name": "x" * 101}, "name"),
        ({"lang": "python", "code": "", "policy": {"timeoutMs": 1}}, "policy.timeoutMs"),
    ):
        status, problem, _ = await asker.ask("POST", "/api/endpoints", body)
        assert (status, problem["errors"][0]["field"]) == (400, field)
    assert (await asker.ask("GET", "/api/endpoints?limit=0"))[0] == 400
