"""What the sandbox is told about who asks, and that nobody else can say it or hear it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.proxy.builtin import Sandbox, nodes_of
from ledger.ids import customer_id_for
from ledger.specs import RouteSpec, UpstreamSpec
from tests.gateway.conftest import MakeStage
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import PROJECT, Catalogue

FORGED = (
    "X-Tollgate-Project: prj_other",
    "X-Tollgate-Secret: guessed",
    "X_Tollgate_Project: prj_other",
    "x-tollgate-customer: cus_other",
    "X-Tollgate-Key-Kind: sk",
    "X-Tollgate-Mode: live",
)


def told(head: bytes) -> list[str]:
    return sorted(line for line in head.decode().split("\r\n") if "tollgate-" in line.lower().replace("_", "-"))


def upstream(*targets: str) -> UpstreamSpec:
    return UpstreamSpec.model_validate({"name": "up", "targets": targets})


def test_only_an_upstream_that_is_nothing_else() -> None:
    sandbox = Sandbox(nodes_of("http://127.0.0.1:8082"), "secret")
    assert sandbox.is_behind(upstream("http://127.0.0.1:8082"))
    assert sandbox.is_behind(upstream("http://127.0.0.1:8082/"))
    for others in (
        ["http://127.0.0.1:8083"],
        ["http://127.0.0.1:8082", "http://evil.test"],
        ["http://127.0.0.1:8082/x"],
    ):
        assert not sandbox.is_behind(upstream(*others))


def test_values_cannot_split_a_head() -> None:
    lines = Sandbox(nodes_of("http://s"), "secret").lines("prj_a", "test", "cus\r\nX-Tollgate-Project: prj_b", "ck")
    assert lines.count(b"\r\n") == 5


async def test_the_sandbox_hears_who_asks_whatever_the_client_says(stage: MakeStage) -> None:
    s = await stage(answering(ok(b"ran")))
    s.inside.gateway.sandbox = Sandbox(nodes_of(f"http://127.0.0.1:{s.upstream.port}"), "between-us")
    assert (await ask(await s.client(), request("/api/run", s.key, *FORGED))).status == 200
    [sent] = s.upstream.received
    assert told(sent) == [
        f"X-Tollgate-Customer: {customer_id_for(PROJECT, 'live', 'ada')}",
        "X-Tollgate-Key-Kind: ck",
        "X-Tollgate-Mode: live",
        f"X-Tollgate-Project: {PROJECT}",
        "X-Tollgate-Secret: between-us",
    ]


async def test_other_upstreams_hear_nothing(stage: MakeStage) -> None:
    s = await stage(answering(ok(b"ran")))
    s.inside.gateway.sandbox = Sandbox(nodes_of("http://127.0.0.1:1"), "between-us")
    assert (await ask(await s.client(), request("/api/run", s.key, *FORGED))).status == 200
    [sent] = s.upstream.received
    assert told(sent) == []


@pytest.mark.parametrize("name", ["X-Tollgate-Project", "x-tollgate-secret", "X-TOLLGATE-KEY-KIND"])
def test_declarations_cannot_say_it_either(name: str) -> None:
    for rule in ("set", "add"):
        with pytest.raises(ValidationError, match="gateway's own"):
            RouteSpec.model_validate(
                {"name": "r", "path": "/r", "upstream": "u", "request_headers": {rule: {name: "prj_other"}}}
            )


async def test_each_caller_is_told_as_who_it_is_though_all_send_the_same_fields(
    stage: MakeStage, catalogue: Catalogue
) -> None:
    s = await stage(answering(ok(b"ran")))
    s.inside.gateway.sandbox = Sandbox(nodes_of(f"http://127.0.0.1:{s.upstream.port}"), "between-us")
    names = ("bob", "eve", "joe")
    keys = [await catalogue.key("ck", customer=await catalogue.customer(name)) for name in names]
    for key in (*keys, *keys):
        assert (await ask(await s.client(), request("/api/run", key))).status == 200
    heads = [head for received in s.upstream.received for head in received.split(b"\r\n\r\n") if head]
    assert [told(head)[0] for head in heads] == [
        f"X-Tollgate-Customer: {customer_id_for(PROJECT, 'live', name)}" for name in (*names, *names)
    ]
