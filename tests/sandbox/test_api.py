"""The service's API: PRODUCT's code runner over HTTP, asked as the gateway asks it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from multidict import CIMultiDict

from sandbox.backends.base import Broken, Handle, Sink
from sandbox.backends.jail.backend import JailBackend
from sandbox.nouns import Ended, Job, Stream
from tests.sandbox.service import Asker, service


@pytest.fixture
async def asker(empty_postgres_url: str) -> AsyncIterator[Asker]:
    async with service(empty_postgres_url) as asker:
        yield asker


def code(text: str, **more: Any) -> dict[str, Any]:
    return {"lang": "python", "code": text, **more}


async def test_a_run(asker: Asker) -> None:
    status, reply, headers = await asker.ask("POST", "/api/run", code("print('hello')", userContext={"id": "u1"}))
    assert status == 200
    assert re.fullmatch(r"run_[0-9a-f]{32}", reply["id"])
    assert (reply["ok"], reply["exitCode"], reply["reason"]) == (True, 0, "exit")
    assert (reply["stdout"], reply["stderr"], reply["userContext"]) == ("hello\n", "", {"id": "u1"})
    assert set(reply["usage"]) == {"cpuMs", "memMB", "durationMs", "memMBs", "runs"}
    assert 1 <= reply["usage"]["cpuMs"] < 200
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", reply["createdAt"])
    assert "truncated" not in reply
    assert headers["X-Usage-Runs"] == "1"
    assert int(headers["X-Usage-Cpu-Ms"]) == reply["usage"]["cpuMs"]
    assert int(headers["X-Usage-Mem-Mb-S"]) == reply["usage"]["memMBs"]


async def test_everything_a_request_can_say(asker: Asker) -> None:
    status, reply = await asker.run(
        {
            "lang": "node",
            "files": [
                {"path": "src/start.js", "content": "console.log(require('./a'), process.argv[2], process.env.K);"},
                {"path": "src/a.js", "content": "module.exports = require('fs').readFileSync(0, 'utf8')"},
            ],
            "entrypoint": "src/start.js",
            "args": ["ärg"],
            "env": {"K": "v"},
            "stdin": "in",
            "policy": {"timeoutMs": 5000, "memoryMB": 128, "allowNetwork": False, "maxOutputBytes": 2048},
        }
    )
    assert (status, reply["stdout"]) == (200, "in ärg v\n"), reply


async def test_ends_that_are_not_the_codes_own(asker: Asker) -> None:
    _, reply = await asker.run(code("while 1: pass", policy={"timeoutMs": 200}))
    assert (reply["ok"], reply["exitCode"], reply["reason"]) == (False, 124, "timeout")
    _, reply = await asker.run(code("x = 'x' * 10**9", policy={"memoryMB": 64}))
    assert (reply["ok"], reply["exitCode"], reply["reason"]) == (False, 137, "oom")
    _, reply = await asker.run(code("while 1: print('é' * 50)", policy={"maxOutputBytes": 1024}))
    assert (reply["ok"], reply["reason"], reply["truncated"]) == (False, "output", True)
    assert reply["stdout"].endswith("\n[output truncated: the limit is 1024 bytes]")
    _, reply = await asker.run(code("import os; os.kill(os.getpid(), 11)"))
    assert (reply["exitCode"], reply["reason"], reply["signal"]) == (139, "signal", 11)


async def test_output_that_is_not_text_and_files(asker: Asker) -> None:
    _, reply = await asker.run(code("import os; os.write(1, b'a\\0\\xff'); open('out/x.bin', 'wb').write(b'\\0\\1')"))
    assert reply["stdout"] == "a\0\ufffd"
    assert reply["artifacts"] == [{"path": "x.bin", "size": 2, "content": "AAE="}]
    assert (await asker.ask("GET", f"/api/run/{reply['id']}"))[1] == reply


async def test_results_are_kept_for_whoever_ran_them(asker: Asker) -> None:
    _, reply = await asker.run(code("print('mine')"))
    path = f"/api/run/{reply['id']}"
    assert (await asker.ask("GET", path))[:2] == (200, reply)
    others = [
        replace(asker, project="prj_b"),
        replace(asker, mode="live"),
        replace(asker, kind="ck", customer="cus_b"),
    ]
    for other in others:
        status, problem, _ = await other.ask("GET", path)
        assert (status, problem["code"]) == (404, "not_found")
        assert (await other.ask("DELETE", path))[0] == 404
        assert (await other.ask("GET", "/api/runs"))[1] == {"runs": [], "cursor": None}
    assert (await replace(asker, kind="ck").ask("GET", path))[0] == 200
    assert (await replace(asker, customer="").ask("GET", path))[0] == 200
    assert (await asker.ask("GET", "/api/run/run_" + "0" * 32))[0] == 404
    assert (await asker.ask("GET", "/api/run/'; DROP TABLE x--"))[0] == 404


async def test_results_survive_a_restart_and_go_after_their_days(empty_postgres_url: str) -> None:
    async with service(empty_postgres_url, warm_node=0) as asker:
        _, reply = await asker.run(code("print('kept')"))
    async with service(empty_postgres_url, warm_node=0) as asker:
        assert (await asker.ask("GET", f"/api/run/{reply['id']}"))[1] == reply
        connection = await asyncpg.connect(empty_postgres_url)
        await connection.execute("UPDATE sandbox.runs SET created_at = now() - interval '7 days 1 minute'")
        assert (await asker.ask("GET", f"/api/run/{reply['id']}"))[0] == 404
        assert (await asker.ask("GET", "/api/runs"))[1]["runs"] == []
    async with service(empty_postgres_url, warm_node=0), asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM sandbox.runs"):
            await asyncio.sleep(0.02)
    await connection.close()


async def test_the_list_has_pages(asker: Asker) -> None:
    made = [(await asker.run(code(f"print({n})")))[1]["id"] for n in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        _, page, _ = await asker.ask("GET", f"/api/runs?limit=2&cursor={cursor}")
        seen += [run["id"] for run in page["runs"]]
        cursor = page["cursor"]
    assert seen == made[::-1]
    _, page, _ = await asker.ask("GET", "/api/runs?limit=1")
    assert set(page["runs"][0]) == {"id", "ok", "exitCode", "reason", "lang", "usage", "createdAt"}
    for wrong in ("limit=0", "limit=101", "limit=x", "cursor=x", "offset=1"):
        status, problem, _ = await asker.ask("GET", f"/api/runs?{wrong}")
        assert (status, problem["errors"][0]["field"]) == (400, wrong.partition("=")[0])


async def test_stopping(asker: Asker) -> None:
    task = asyncio.create_task(asker.run(code("import time; time.sleep(60)", policy={"timeoutMs": 60_000})))
    async with asyncio.timeout(60):
        while not (runs := (await asker.ask("GET", "/api/runs"))[1]["runs"]) or runs[0]["status"] != "running":
            await asyncio.sleep(0.01)
    path = f"/api/run/{runs[0]['id']}"
    assert (await asker.ask("GET", path))[1] == {"id": runs[0]["id"], "status": "running"}
    assert (await replace(asker, project="prj_b").ask("DELETE", path))[0] == 404
    assert (await asker.ask("DELETE", path))[0] == 202
    status, reply = await task
    assert (status, reply["exitCode"], reply["reason"]) == (200, 143, "stopped")
    status, problem, _ = await asker.ask("DELETE", path)
    assert (status, problem["code"]) == (409, "run_ended")


async def test_streaming(asker: Asker) -> None:
    text = "import sys, time\nprint('öne')\ntime.sleep(0.2)\nprint('two', file=sys.stderr)\nprint('three')"
    events = [event async for event in asker.events(code(text))]
    names = [name for name, _ in events]
    assert names[0] == "start"
    assert names[-1] == "end"
    assert [data["text"] for name, data in events if name == "stdout"] == ["öne\n", "three\n"]
    assert [data["text"] for name, data in events if name == "stderr"] == ["two\n"]
    end = events[-1][1]
    assert (end["id"], end["stdout"], end["ok"]) == (events[0][1]["id"], "öne\nthree\n", True)
    assert end["usage"]["cpuMs"] > 0


async def test_characters_cut_in_the_middle_arrive_whole(asker: Asker) -> None:
    text = "import os, time\nos.write(1, b'\\xe2\\x82'); time.sleep(0.1); os.write(1, b'\\xac'); os.write(1, b'\\xe2')"
    events = [event async for event in asker.events(code(text))]
    assert "".join(data["text"] for name, data in events if name == "stdout") == "€\ufffd"


async def test_a_client_that_goes_away_stops_its_run(asker: Asker) -> None:
    text = "print('on', flush=True)\nimport time; time.sleep(60)"
    async for name, data in asker.events(code(text, policy={"timeoutMs": 60_000})):
        if name == "start":
            run = data["id"]
        if name == "stdout":
            break
    async with asyncio.timeout(60):
        while (found := (await asker.ask("GET", f"/api/run/{run}"))[1]).get("reason") is None:
            await asyncio.sleep(0.02)
    assert found["reason"] == "stopped"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asker.run(code("import time; time.sleep(60)", policy={"timeoutMs": 60_000}))
    async with asyncio.timeout(60):
        while any("status" in run for run in (await asker.ask("GET", "/api/runs"))[1]["runs"]):
            await asyncio.sleep(0.02)


async def test_an_idempotency_key_runs_once(asker: Asker) -> None:
    body = code("import time; time.sleep(0.2); print(time.time())")
    answers = await asyncio.gather(*(asker.ask("POST", "/api/run", body, **{"Idempotency-Key": "k"}) for _ in range(5)))
    assert {status for status, _, _ in answers} == {200}
    assert len({reply["stdout"] for _, reply, _ in answers}) == 1
    assert sorted(headers["X-Usage-Runs"] for _, _, headers in answers) == ["0", "0", "0", "0", "1"]
    status, reply, headers = await asker.ask("POST", "/api/run", body, **{"Idempotency-Key": "k"})
    assert (status, reply, headers["Idempotent-Replayed"]) == (200, answers[0][1], "true")
    status, problem = await asker.run(code("print(2)"), **{"Idempotency-Key": "k"})
    assert (status, problem["code"]) == (422, "idempotency_key_reused")
    other = replace(asker, project="prj_b")
    assert (await other.run(code("print(2)"), **{"Idempotency-Key": "k"}))[1]["stdout"] == "2\n"
    status, problem = await asker.run(body, **{"Idempotency-Key": "k" * 256})
    assert (status, problem["errors"][0]["field"]) == (400, "Idempotency-Key")


async def test_a_stream_with_an_idempotency_key_runs_once_and_costs_once(asker: Asker) -> None:
    body = code("import sys, random; print(random.random()); print('e', file=sys.stderr)")
    first = [event async for event in asker.events(body, **{"Idempotency-Key": "s"})]
    again = [event async for event in asker.events(body, **{"Idempotency-Key": "s"})]
    assert [name for name, _ in again] == ["start", "stdout", "stderr", "end"]
    assert again[0] == first[0]
    ended, replayed = first[-1][1], again[-1][1]
    assert again[1][1]["text"] == replayed["stdout"] == ended["stdout"]
    assert (ended["usage"]["runs"], replayed["usage"]["runs"], replayed["usage"]["cpuMs"]) == (
        1,
        0,
        0,
    )  # what meters read
    assert (await asker.run(body, **{"Idempotency-Key": "s"}))[1] == ended  # a plain request is the same request
    status, problem, _ = await asker.ask("POST", "/api/run/stream", body, **{"Idempotency-Key": ""})
    assert (status, problem["errors"][0]["field"]) == (400, "Idempotency-Key")


async def test_a_stream_that_is_lost_costs_nothing_and_may_be_tried_again(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, heard = JailBackend.run, asyncio.Event()

    async def lost(backend: JailBackend, job: Job, handle: Handle, sink: Sink | None = None) -> Ended:
        assert sink is not None
        sink(Stream.STDOUT, b"begun")
        await heard.wait()
        raise Broken("its guest was lost")

    monkeypatch.setattr(JailBackend, "run", lost)
    async for name, data in asker.events(code("print(1)"), **{"Idempotency-Key": "l"}):  # noqa: B007
        heard.set()
    assert (name, data["code"], data["usage"]["runs"]) == ("error", "run_lost", 0)
    monkeypatch.setattr(JailBackend, "run", run)
    events = [event async for event in asker.events(code("print(1)"), **{"Idempotency-Key": "l"})]
    assert (events[-1][0], events[-1][1]["stdout"]) == ("end", "1\n")


@pytest.mark.parametrize(
    "text", ["%00", "run_1", "a" * 7900, "run_" + "0" * 31 + "g", "%F0%9F%8D%B0", "run_" + "0" * 33]
)
async def test_ids_of_another_form_are_nowhere(asker: Asker, text: str) -> None:
    """They are not asked for in the database, nor of other nodes."""
    paths = ("/api/run/", "/api/endpoints/", "/e/", "/e/open/")
    for method, path in (("DELETE", "/api/run/"), *(("GET", path) for path in paths)):
        status, problem, _ = await asker.ask(method, path + text)
        assert (status, problem["code"]) == (404, "not_found"), path


async def test_answers_do_not_say_what_this_is_made_of(asker: Asker) -> None:
    for path in ("/ready", "/api/runs", "/elsewhere"):
        assert "Server" not in (await asker.ask("GET", path))[2]


async def test_only_the_gateway_gets_in(asker: Asker) -> None:
    for secret in ("", "wrong", "bétween"):
        status, problem, headers = await replace(asker, secret=secret).ask("POST", "/api/run", code("print(1)"))
        assert (status, problem["code"]) == (401, "not_from_gateway")
        assert headers["Content-Type"].startswith("application/problem+json")
    status, problem = await replace(asker, project="").run(code("print(1)"))
    assert (status, problem["code"]) == (401, "not_from_gateway")
    twice = [*asker.headers().items(), ("X-Tollgate-Project", "prj_b")]
    async with asker.session.get(f"{asker.url}/api/runs", headers=CIMultiDict(twice)) as response:
        assert response.status == 401


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lang": "cobol"}, "lang"),
        ({"lang": None}, "lang"),
        ({"code": None}, "code"),
        ({"files": [{"path": "main.py", "content": ""}]}, "code"),
        ({"code": 7}, "code"),
        ({"code": None, "files": []}, "files"),
        ({"code": None, "files": [{"path": "x.py", "content": ""}]}, "entrypoint"),
        ({"code": None, "files": [{"path": "main.py", "content": ""}], "entrypoint": "other.py"}, "entrypoint"),
        ({"entrypoint": "/etc/passwd"}, "entrypoint"),
        ({"entrypoint": "a/../b"}, "entrypoint"),
        ({"policy": {"timeoutMs": 99}}, "policy.timeoutMs"),
        ({"policy": {"timeoutMs": 300_001}}, "policy.timeoutMs"),
        ({"policy": {"timeoutMs": "3000"}}, "policy.timeoutMs"),
        ({"policy": {"timeoutMs": True}}, "policy.timeoutMs"),
        ({"policy": {"memoryMB": 1}}, "policy.memoryMB"),
        ({"policy": {"memoryMB": 10**9}}, "policy.memoryMB"),
        ({"policy": {"maxOutputBytes": 0}}, "policy.maxOutputBytes"),
        ({"policy": {"sudo": True}}, "policy.sudo"),
        ({"policy": {"allowNet": True, "allowNetwork": False}}, "policy.allowNet"),
        ({"policy": {"allowedHosts": ["example.com"]}}, "policy.allowedHosts"),
        ({"policy": {"allowNet": True, "allowedHosts": ["http://x"]}}, "policy.allowedHosts.0"),
        ({"policy": {"allowNet": True, "allowedHosts": ["10.0.0.1"]}}, "policy.allowedHosts.0"),
        ({"args": ["a\0b"]}, "args.0"),
        ({"args": "x"}, "args"),
        ({"env": {"A=B": "x"}}, "env.A=B"),
        ({"env": {"A": "x\0"}}, "env.A"),
        ({"userContext": {"x": "y" * 5000}}, "userContext"),
        ({"repo": "x"}, "repo"),
        ({"packages": ["six"]}, "packages"),
    ],
)
async def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    import orjson

    from sandbox.problems import Refused
    from sandbox.request import Ceilings, read

    body = {name: value for name, value in (code("print(1)") | change).items() if value is not None}
    with pytest.raises(Refused) as refused:
        read(orjson.dumps(body), Ceilings(300_000, 2048, 10_000_000, 64, 64 << 20))
    assert refused.value.problem.status == 400
    assert field in [name for name, _ in refused.value.errors], refused.value.errors
    words = " ".join(message for _, message in refused.value.errors)
    assert "instance of" not in words  # names of ours
    assert "input should" not in words


def test_a_field_that_is_null_is_not_there() -> None:
    import orjson

    from sandbox.request import Ceilings, read

    nulls = dict.fromkeys(("files", "entrypoint", "packages", "stdin", "args", "env", "policy", "userContext"))
    ceilings = Ceilings(300_000, 2048, 10_000_000, 64, 64 << 20)
    plain = read(orjson.dumps(code("print(1)")), ceilings)
    assert read(orjson.dumps(code("print(1)") | nulls), ceilings) == plain
    assert read(orjson.dumps(code("print(1)", policy={"timeoutMs": None, "allowNet": None})), ceilings) == plain


@pytest.mark.parametrize(
    "path",
    ["", "/a", "../a", "a/../b", "a//b", "./a", "a/.", "a\\b", "a\0", "out", "a" * 256, "a/" * 32 + "a", "~/../x"],
)
def test_paths_that_are_refused(path: str) -> None:
    import orjson

    from sandbox.problems import Refused
    from sandbox.request import Ceilings, read

    files = [{"path": "main.py", "content": ""}, {"path": path, "content": ""}]
    with pytest.raises(Refused) as refused:
        read(orjson.dumps({"lang": "python", "files": files}), Ceilings(1000, 2048, 10_000_000, 64, 64 << 20))
    assert refused.value.errors[0][0] == "files.1.path"


async def test_problem_documents(asker: Asker) -> None:
    files = [{"path": "a", "content": ""}, {"path": "a", "content": ""}, {"path": "a/b", "content": ""}]
    status, problem, headers = await asker.ask("POST", "/api/run", {"lang": "python", "files": files})
    assert status == 400
    assert headers["Content-Type"].startswith("application/problem+json")
    assert problem["request_id"] == "request-1"
    assert problem["code"] == "invalid_run"
    assert problem["message"] == problem["detail"]
    assert [e["field"] for e in problem["errors"]] == ["files.1.path", "files.2.path", "entrypoint"]
    for body in (b"", b"[]", b"{", b'{"lang": "\\ud800"}', b"\xff", b"null"):
        status, problem = await asker.run(body)
        assert (status, problem["code"]) == (400, "not_json"), body
    status, problem = await asker.run(b"x=1", **{"Content-Type": "application/x-www-form-urlencoded"})
    assert (status, problem["code"]) == (415, "unsupported_media_type")
    status, problem = await asker.run(b" " * (17 << 20))
    assert (status, problem["code"]) == (413, "body_too_large")
    assert (await asker.ask("GET", "/api/run"))[0] == 405
    assert (await asker.ask("GET", "/elsewhere"))[0] == 404


async def test_more_than_can_be_run(empty_postgres_url: str) -> None:
    bounds = {"max_running": 2, "max_running_per_project": 1, "max_waiting": 3, "max_waiting_per_project": 1}
    async with service(empty_postgres_url, warm_node=0, wait_ms=700, **bounds) as asker:
        slow = code("import time; time.sleep(5)", policy={"timeoutMs": 1_500})
        others = [replace(asker, project=f"prj_{n}") for n in range(6)]
        tasks = []
        for other in (others[0], others[1], others[0], others[1], others[2]):
            tasks.append(asyncio.create_task(other.ask("POST", "/api/run", slow)))
            await asyncio.sleep(0.1)
        status, problem, headers = await others[0].ask("POST", "/api/run", slow)
        assert (status, problem["code"], headers["Retry-After"]) == (429, "too_many_runs", "1")
        status, problem, headers = await others[3].ask("POST", "/api/run", slow)
        assert (status, problem["code"], headers["Retry-After"]) == (503, "busy", "1")
        answers = await asyncio.gather(*tasks)
        assert [status for status, _, _ in answers] == [200, 200, 503, 503, 503]


async def test_what_waits_may_take_only_so_much_memory(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox import runner

    monkeypatch.setattr(runner, "MAX_HELD_BYTES", 1_000_000)
    slow = asyncio.create_task(
        asker.run(code("import time; time.sleep(60)\n" + "#" * 600_000, policy={"timeoutMs": 700}))
    )
    async with asyncio.timeout(60):
        while not (await asker.ask("GET", "/api/runs"))[1]["runs"]:
            await asyncio.sleep(0.01)
    status, problem = await asker.run(code("#" * 600_000))
    assert (status, problem["code"]) == (503, "busy")
    assert (await asker.run(code("print('small')")))[0] == 200
    assert (await slow)[1]["reason"] == "timeout"
    assert (await asker.run(code("#" * 600_000)))[0] == 200  # given back


async def test_where_nothing_is_safe_nothing_is_run(empty_postgres_url: str) -> None:
    async with service(empty_postgres_url, backend="jail", bwrap="/usr/bin/false") as asker:
        status, problem, headers = await asker.ask("POST", "/api/run", code("print(1)"))
        assert (status, problem["code"], headers["Retry-After"]) == (503, "no_backend", "30")
        status, ready, _ = await asker.ask("GET", "/ready")
        assert (status, ready["status"], ready["backend"]) == (503, "not ready", None)
        assert "jail did not start" in ready["backends"]["jail"]


async def test_readiness_and_metrics(asker: Asker) -> None:
    status, ready, _ = await asker.ask("GET", "/ready")
    assert status == 200
    assert (ready["backend"], ready["languages"]) == ("jail", ["node", "python"])
    assert ready["dependencies"] == {"backend": "up", "postgres": "up"}


async def test_without_a_database_code_is_run_all_the_same() -> None:
    async with service("postgresql://nobody@127.0.0.1:1/nothing", warm_node=0) as asker:
        status, reply = await asker.run(code("print('on')"))
        assert (status, reply["stdout"]) == (200, "on\n")
        assert (await asker.ask("GET", f"/api/run/{reply['id']}"))[1] == reply  # from memory
        status, problem = await asker.run(code("print(1)"), **{"Idempotency-Key": "k"})
        assert (status, problem["code"]) == (503, "store_unavailable")
        assert (await asker.ask("GET", "/ready"))[1]["dependencies"]["postgres"].startswith("down")


async def test_the_network_is_off_unless_asked_for_and_denials_are_told(asker: Asker) -> None:
    text = "import urllib.request as u; print(u.urlopen('http://api.example/').read())"
    _, reply = await asker.run(code(text))
    assert (reply["exitCode"], reply["reason"]) == (1, "exit")
    assert "network" not in reply
    _, reply = await asker.run(code(text, policy={"allowNet": True, "allowedHosts": ["*.example.com"]}))
    assert (reply["exitCode"], reply["reason"]) == (1, "net_denied")
    denied = [{"host": "api.example:80", "reason": "not among allowedHosts"}]
    assert reply["network"] == {"bytesIn": 0, "bytesOut": 0, "denied": denied}
    text = """
import socket
s = socket.create_connection(("127.0.0.1", 3128))
s.sendall(b"CONNECT 169.254.169.254:80 HTTP/1.1\\r\\n\\r\\n")
print(s.recv(12).decode())
"""
    _, reply = await asker.run(code(text, policy={"allowNetwork": True}))
    assert (reply["ok"], reply["stdout"]) == (True, "HTTP/1.1 403\n")
    denied = [{"host": "169.254.169.254:80", "reason": "169.254.169.254 is not a public address"}]
    assert reply["network"]["denied"] == denied
