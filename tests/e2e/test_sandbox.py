"""Code through the gateway's front door: keys, quotas and ownership hold, and what a run used is on the books."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e import raw
from tests.e2e.books import Books
from tests.e2e.stack import Stack

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def post(stack: Stack, path: str, body: Any, who: str, **headers: str) -> raw.Response:
    """As the end user `who` of the demo project."""
    return send(
        stack, path, body, {"Authorization": f"Bearer {stack.info['keys']['secret']}", "X-User-Id": who, **headers}
    )


def as_platform(stack: Stack, path: str, body: Any) -> raw.Response:
    """As the demo project, which is a customer of the platform."""
    return send(stack, path, body, {"Authorization": f"Bearer {stack.info['keys']['platform']}"})


def send(stack: Stack, path: str, body: Any, headers: dict[str, str]) -> raw.Response:
    text = json.dumps(body).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}
    parts = urlsplit(stack.gateway)
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with raw.Connection(stack.gateway) as connection:
        connection.send(f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{head}\r\n".encode() + text)
        return connection.read()


async def test_a_run_is_counted_by_what_it_used(stack: Stack, books: Books) -> None:
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint('burnt')"
    answer = post(stack, "/api/run", {"lang": "python", "code": burn}, "runner-1")
    assert answer.status == 200, answer.body
    reply = answer.json()
    assert (reply["ok"], reply["stdout"]) == (True, "burnt\n")
    event = await books.only_event("runner-1")
    assert event.route == "run"
    assert event.meters["runs"] == event.meters["requests"] == 1
    assert event.meters["cpu_ms"] == reply["usage"]["cpuMs"]
    assert 200 <= event.meters["cpu_ms"] <= 400
    assert event.meters["mem_mb_s"] == reply["usage"]["memMBs"]


async def test_a_streamed_run_is_counted_by_its_last_event(stack: Stack, books: Books) -> None:
    answer = post(stack, "/api/run/stream", {"lang": "python", "code": "print(6 * 7)"}, "runner-2")
    assert answer.status == 200
    assert b'data: {"text":"42\\n"}' in answer.body
    end = json.loads(answer.body.split(b"event: end\ndata: ")[1])
    event = await books.only_event("runner-2")
    assert event.route == "run-stream"
    assert (event.meters["runs"], event.meters["cpu_ms"]) == (1, end["usage"]["cpuMs"])


async def test_what_was_not_run_is_no_run(stack: Stack, books: Books) -> None:
    answer = post(stack, "/api/run", {"lang": "cobol", "code": ""}, "runner-3")
    assert (answer.status, answer.json()["errors"][0]["field"]) == (400, "lang")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    event = await books.only_event("runner-3")
    assert event.meters.get("runs", 0) == event.meters.get("cpu_ms", 0) == 0


def test_results_belong_to_who_ran_it(stack: Stack) -> None:
    keys = stack.info["keys"]
    forged = {"X-Tollgate-Project": "prj_other", "X-Tollgate-Customer": "cus_other"}
    run = post(stack, "/api/run", {"lang": "node", "code": "console.log(1)"}, "runner-4", **forged).json()["id"]
    path = f"{stack.gateway}/api/run/{run}"
    assert raw.get(path, {"X-API-Key": keys["secret"]}).json()["stdout"] == "1\n"
    assert raw.get(path, {"X-API-Key": keys["customer"]}).status == 404  # another customer's
    assert raw.get(path, {}).status == 401
    listed = raw.get(f"{stack.gateway}/api/runs", {"X-API-Key": keys["secret"]}).json()["runs"]
    assert run in [entry["id"] for entry in listed]


def test_the_sandbox_holds_nothing_of_the_control_plane(stack: Stack) -> None:
    known = stack.info["postgres"].partition("@")[0].rpartition(":")[2]
    for pid in stack.info["pids"]["sandbox"]:
        environ = Path(f"/proc/{pid}/environ").read_text()
        assert known not in environ
        assert "ENCRYPTION_KEYS" not in environ
        assert "TOLLGATE_POSTGRES_URL" not in environ


def test_the_sandbox_answers_only_the_gateway(stack: Stack) -> None:
    url = stack.info["sandbox"]
    assert raw.get(f"{url}/api/runs", {"X-Tollgate-Project": "prj_x"}).status == 401
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as direct:
        direct.sendall(b"POST /api/run HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert b" 401 " in direct.recv(100)


async def test_the_platforms_free_plan_has_100_runs_and_says_where_there_are_more(stack: Stack, books: Books) -> None:
    hello = {"lang": "python", "code": "print(6 * 7)"}
    assert as_platform(stack, "/api/data", {"meter": "runs", "quantity": 99}).status == 200
    assert as_platform(stack, "/platform/api/run", hello).json()["stdout"] == "42\n"
    refused = as_platform(stack, "/platform/api/run", hello)
    plans = f"{stack.gateway}/dashboard/billing"
    told = refused.json()
    assert (refused.status, told["code"], told["violated-policies"]) == (429, "quota_exceeded", ["runs"])
    assert told["detail"].startswith("The limit of 100 runs in this period is reached. Try again in ")
    assert told["detail"].endswith(f"Upgrade for more: {plans}")
    assert (told["upgrade-url"], told["message"]) == (plans, told["detail"])
    assert int(refused.headers["retry-after"]) > 0
    counted = as_platform(stack, "/api/data", {"meter": "runs"})
    assert (counted.status, counted.json()["error"]) == (403, "Tier limit reached")
    assert counted.json()["message"] == f"The plan free includes 100 runs in this period. Upgrade for more: {plans}"
    await books.balanced()
    assert (await books.totals(stack.info["project"]["id"], "runs"))[1] == 100
