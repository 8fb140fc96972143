"""Meters that are read from answers, through a whole gateway: what passes, what is counted, what quotas hold."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from ledger.problems import TYPE_BASE
from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.metering.test_codings import CODINGS
from tests.gateway.wire import Answer, answering, ask, drop, ok, read_answer, read_request, request
from tests.support.gateway import Books, until
from tests.support.raw import Peer
from tests.support.upstreams.models import COMPLETION, PROMPT, READ, Model, chat_chunks

TOKENS = {"source": "usage:total", "estimate": 500}
JSON = b"Content-Type: application/json"
PATHS = {"chat": "/api/v1/chat/completions", "responses": "/api/v1/responses", "messages": "/api/v1/messages"}


def prompt(key: str, path: str = PATHS["chat"], **document: Any) -> bytes:
    """A request for a completion; without usage only if `stream_options` says so."""
    if document.get("stream") and path == PATHS["chat"]:
        document.setdefault("stream_options", {"include_usage": True})
    body = orjson.dumps({"model": "m", **document})
    return request(path, key, "Content-Type: application/json", method="POST", body=body)


async def the_event(s: Stage, books: Books) -> dict[str, Any]:
    """The one event, once everything is settled; quota counters agree with it."""
    await s.inside.settled()
    [event] = await books.events()
    assert await books.reservations() == []
    assert {m: n for m, n in (await books.quotas()).items() if n} == {
        m: n for m, n in event["meters"].items() if n and m not in ("bytes_in", "bytes_out")
    }
    return event


# -- language models


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_tokens_of_a_language_model(stage: MakeStage, books: Books, api: str, stream: bool) -> None:
    model = Model()
    meters = {"requests": 1, **{f"tokens.{part}": f"usage:{part}" for part in READ}}
    s = await stage(model, route={"meters": meters})
    answer = await ask(await s.client(), prompt(s.key, PATHS[api], stream=stream))
    assert (answer.status, answer.body) == (200, model.sent[0])
    event = await the_event(s, books)
    assert {part: event["meters"][f"tokens.{part}"] for part in READ} == READ
    assert event["meters"]["requests"] == 1
    assert event["meters"]["bytes_out"] == len(answer.body)
    assert "notes" not in event


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_encoded_answers_are_read_and_pass_untouched(
    stage: MakeStage, books: Books, coding: str, stream: bool
) -> None:
    model = Model(coding=coding)
    s = await stage(model, route={"meters": {"tokens": "$.usage.total_tokens"}})
    answer = await ask(await s.client(), prompt(s.key, stream=stream))
    assert answer.body == model.sent[0]
    assert answer.headers["content-encoding"] == coding.split()[-1]
    assert (await the_event(s, books))["meters"]["tokens"] == PROMPT + COMPLETION


async def test_events_pass_as_they_come(stage: MakeStage, books: Books) -> None:
    model = Model(hold_after=2)
    s = await stage(model, route={"meters": {"tokens": TOKENS}})
    client = await s.client()
    await client.send(prompt(s.key, stream=True))
    first, second = chat_chunks(include_usage=True)[:2]
    await client.read_until(b"\r\n\r\n")
    assert first + b"\r\n" in await client.read_until(second + b"\r\n")
    assert [held["meters"] for held in await books.reservations()] == [{"tokens": 500}]
    assert await books.quotas() == {"tokens": 500}
    model.go_on.set()
    await client.read_until(b"0\r\n\r\n")
    assert (await the_event(s, books))["meters"]["tokens"] == PROMPT + COMPLETION


# -- headers and places in JSON

ANSWER = orjson.dumps(
    {"usage": {"total_tokens": 12, "float": 1.0, "minus": -1, "text": "7", "most": 2**53}, "b/c": [[3]]}
)


@pytest.mark.parametrize(
    ("source", "counted"),
    [
        ("$.usage.total_tokens", 12),
        ("/usage/total_tokens", 12),
        ("/b~1c/0/0", 3),
        ("$.usage.most", 2**53),
        ("header:X-Cost", 9),
        ("header:content-length", len(ANSWER)),
    ],
)
async def test_a_quantity_is_read_from_the_answer(stage: MakeStage, books: Books, source: str, counted: int) -> None:
    s = await stage(answering(ok(ANSWER, JSON, b"X-Cost: 9")), route={"meters": {"cost": source}})
    answer = await ask(await s.client(), request("/api/x", s.key))
    assert answer.body == ANSWER
    event = await the_event(s, books)
    assert event["meters"]["cost"] == counted
    assert "notes" not in event


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("$.usage.float", ok(ANSWER, JSON)),
        ("$.usage.minus", ok(ANSWER, JSON)),
        ("$.usage.text", ok(ANSWER, JSON)),
        ("$.usage", ok(ANSWER, JSON)),
        ("$.nothing", ok(ANSWER, JSON)),
        ("$.a", ok(b'{"a":9007199254740993}', JSON)),
        ("$.a", ok(b'{"a":1e3}', JSON)),
        ("$.a", ok(b'{"a":1,"b":NaN}', JSON)),
        ("$.a", ok(b'{"a":5', JSON)),
        ("$.a", ok(b'{"a":5}', b"Content-Type: text/plain")),
        ("$.a", ok(b'{"a":5}')),
        ("$.a", ok(b'{"a":5}', JSON, b"Content-Encoding: gzip")),
        ("$.a", ok(b'{"a":5}', JSON, b"Content-Encoding: gzip, br")),
        ("$.a", ok(b'{"a":5}', JSON, b"Content-Encoding: rot13")),
        ("usage:total", ok(b'{"usage":{"total_tokens":-4}}', JSON)),
        ("usage:total", ok(b'{"usage":{"prompt_tokens":"x","completion_tokens":2}}', JSON)),
        ("usage:output", ok(b'{"usage":[]}', JSON)),
        ("header:X-Cost", ok(ANSWER, JSON)),
        ("header:X-Cost", ok(ANSWER, b"X-Cost: -1")),
        ("header:X-Cost", ok(ANSWER, b"X-Cost: 1.5")),
        ("header:X-Cost", ok(ANSWER, b"X-Cost: 99999999999999999999")),
        ("header:X-Cost", ok(ANSWER, b"X-Cost: 9007199254740993")),
        ("header:X-Cost", ok(ANSWER, b"X-Cost: 1", b"X-Cost: 2")),
    ],
)
async def test_what_no_answer_tells_is_estimated_and_marked(
    stage: MakeStage, books: Books, source: str, answer: bytes
) -> None:
    s = await stage(answering(answer), route={"meters": {"requests": 1, "cost": {"source": source, "estimate": 77}}})
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    event = await the_event(s, books)
    assert event["meters"]["cost"] == 77
    assert event["notes"] == {"estimated": ["cost"]}
    assert s.inside.gateway.metrics.snapshot()["routes"]["api"]["estimates"] == {"cost": 1}
    assert (await ask(client, request("/api/x", s.key))).status == 200  # the connection lives


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", ok(b'{"error":{}}', JSON, status=b"400 Bad Request")),
        ("GET", ok(b"<html>", b"Content-Type: text/html", status=b"502 Bad Gateway")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n"),
    ],
)
async def test_errors_and_answers_without_a_body_owe_no_figures(
    stage: MakeStage, books: Books, method: str, answer: bytes
) -> None:
    s = await stage(answering(answer), route={"meters": {"requests": 1, "tokens": TOKENS}})
    await ask(await s.client(), request("/api/x", s.key, method=method))
    event = await the_event(s, books)
    assert event["meters"] | {"bytes_out": 0} == {"requests": 1, "tokens": 0, "bytes_in": 0, "bytes_out": 0}
    assert "notes" not in event


async def test_large_documents_are_read_while_they_pass(stage: MakeStage, books: Books) -> None:
    vectors = [{"embedding": [0.5] * 1_000} for _ in range(300)]
    body = orjson.dumps({"data": vectors, "usage": {"prompt_tokens": 300, "total_tokens": 300}})
    assert len(body) > 1_000_000
    s = await stage(answering(ok(body, JSON)), route={"meters": {"tokens": TOKENS, "in": "usage:input"}})
    answer = await ask(await s.client(), request("/api/x", s.key))
    assert answer.body == body
    meters = (await the_event(s, books))["meters"]
    assert (meters["tokens"], meters["in"]) == (300, 300)


STREAM_LINES = (b"Content-Type: text/event-stream;charset=UTF-8",)


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        ([b'{"usage":{"total_tokens":1}}', b'{"usage":{"total_tokens":2}}', b"[DONE]"], 2),  # growing, the last counts
        ([b'{"usage":{"total_tokens":7}}', b'{"x":1}', b'{"usage":null}', b"[DONE]"], 7),  # in the middle
        ([b'{"usage":{"total_tokens":7}}', b'{"usage":{"total_tok'], 7),  # broken later
        ([b'{"usage":{"total_tokens":7}}\ndata: ', b": x"], 7),
        ([b'{"usage":\ndata: {"total_tokens":\ndata:7}}'], 7),
        ([b"not JSON", b'{"usage":{"total_tokens":-1}}'], 500),
        ([b'{"usage":{"total_tokens":7}}', b'{"usage":{"total_tokens":1.5}}'], 500),
    ],
)
async def test_odd_event_streams(stage: MakeStage, books: Books, events: list[bytes], tokens: int) -> None:
    body = b"".join(b"data: %b\n\n" % event for event in events)
    s = await stage(answering(ok(body, *STREAM_LINES)), route={"meters": {"tokens": TOKENS}})
    assert (await ask(await s.client(), request("/api/x", s.key))).body == body
    assert (await the_event(s, books))["meters"]["tokens"] == tokens


# -- quotas: reserved by estimate, settled as it was


async def test_a_quota_of_tokens_holds(stage: MakeStage, books: Books) -> None:
    s = await stage(Model(), tier={"quotas": {"tokens": 100}}, route={"meters": {"tokens": {**TOKENS, "estimate": 50}}})
    client = await s.client()
    first = await ask(client, prompt(s.key))
    assert first.headers["ratelimit"].startswith('"tokens";r=50;')
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 46}
    assert (await ask(client, prompt(s.key))).status == 200  # 46 + 50 is below 100
    await s.inside.settled()
    refused = await ask(client, prompt(s.key))  # 92 + 50 is not
    assert (refused.status, refused.json()["code"]) == (429, "quota_exceeded")
    assert refused.json()["type"].startswith(TYPE_BASE)
    assert refused.json()["violated-policies"] == ["tokens"]
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 92}
    assert [event["meters"]["tokens"] for event in await books.events()] == [46, 46]


async def test_more_than_was_estimated_is_taken(stage: MakeStage, books: Books) -> None:
    s = await stage(Model(), tier={"quotas": {"tokens": 40}}, route={"meters": {"tokens": {**TOKENS, "estimate": 1}}})
    client = await s.client()
    assert (await ask(client, prompt(s.key))).status == 200
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 46}
    assert (await ask(client, prompt(s.key))).status == 429


async def test_estimates_together_never_exceed_a_quota(stage: MakeStage, books: Books) -> None:
    model = Model(hold_after=1)
    s = await stage(model, tier={"quotas": {"tokens": 100}}, route={"meters": {"tokens": {**TOKENS, "estimate": 40}}})
    clients = [await s.client() for _ in range(4)]
    for client in clients:
        await client.send(prompt(s.key, stream=True))
    heads = sorted([(await client.read_until(b"\r\n"))[9:12] for client in clients])
    assert heads == [b"200", b"200", b"429", b"429"]
    model.go_on.set()
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 2 * 46}


async def test_bytes_and_time_against_quotas(stage: MakeStage, books: Books) -> None:
    async def slow(peer: Peer) -> None:
        await read_request(peer)
        await asyncio.sleep(0.03)
        await peer.send(ok(b"x" * 1_000))
        await peer.read_to_end()

    quotas = {"bytes_out": 500, "bytes_in": None, "duration_ms": None}
    s = await stage(slow, tier={"quotas": quotas})
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key, method="POST", body=b"abc"))).status == 200
    await s.inside.settled()
    [event] = await books.events()
    assert event["meters"]["duration_ms"] >= 30
    used = await books.quotas()
    assert used == event["meters"]
    assert (used["bytes_out"], used["bytes_in"], used["requests"]) == (1_000, 3, 1)
    refused = await ask(client, request("/api/x", s.key))
    assert refused.json()["violated-policies"] == ["bytes_out"]


async def test_what_every_event_carries_is_counted_live_where_the_tier_names_it(stage: MakeStage, books: Books) -> None:
    meters = {"requests": 1, "bytes_out": {"source": "bytes_out", "estimate": 9}, "egress": "bytes_out"}
    s = await stage(answering(ok(b"x" * 10)), route={"meters": meters})
    assert (await ask(await s.client(), request("/api/x", s.key))).status == 200
    await s.inside.settled()
    [event] = await books.events()
    assert event["meters"] == {"requests": 1, "egress": 10, "bytes_in": 0, "bytes_out": 10}
    assert await books.quotas() == {"requests": 1, "egress": 10}


# -- what goes wrong


@pytest.mark.parametrize(("passed", "counted"), [(3, 40), (0, 40)])
async def test_a_client_that_leaves_pays_the_estimate(
    stage: MakeStage, books: Books, passed: int, counted: int
) -> None:
    model = Model(hold_after=passed)
    s = await stage(model, route={"meters": {"requests": 1, "tokens": {**TOKENS, "estimate": 40}}})
    client = await s.client()
    await client.send(prompt(s.key, stream=True))
    await client.read_until(b"\r\n\r\n")
    if passed:
        await client.read_until(b" time" if passed > 3 else b" a")
    drop(client)
    event = await the_event(s, books)
    assert (event["outcome"], event["meters"]["tokens"]) == ("client_gone", counted)
    assert event["notes"] == {"estimated": ["tokens"]}


async def test_who_leaves_before_the_last_event_pays_at_least_for_each_that_passed(
    stage: MakeStage, books: Books
) -> None:
    model = Model(hold_after=len(chat_chunks(include_usage=True)) - 2)
    s = await stage(model, route={"meters": {"tokens": {**TOKENS, "estimate": 1}, "out": "usage:output"}})
    client = await s.client()
    await client.send(prompt(s.key, stream=True))
    await client.read_until(b'"finish_reason":"stop"}')
    drop(client)
    meters = (await the_event(s, books))["meters"]
    assert (meters["tokens"], meters["out"]) == (COMPLETION, COMPLETION)


async def test_what_was_said_by_then_counts(stage: MakeStage, books: Books) -> None:
    model = Model(hold_after=4)
    s = await stage(model, route={"meters": {"in": "usage:input", "out": {"source": "usage:output", "estimate": 90}}})
    client = await s.client()
    await client.send(prompt(s.key, PATHS["messages"], stream=True))
    await client.read_until(b" upon")
    drop(client)
    event = await the_event(s, books)
    assert event["meters"]["in"] == PROMPT  # Anthropic says it first
    assert event["meters"]["out"] == 4  # one for each event, as the first block says 1
    assert event["notes"] == {"estimated": ["in", "out"]}


@pytest.mark.parametrize(("policy", "tokens", "requests"), [("charge", 500, 1), ("free", None, 0)])
async def test_an_upstream_that_never_answers_costs_what_the_route_says(
    stage: MakeStage, books: Books, policy: str, tokens: int | None, requests: int
) -> None:
    async def hang_up(peer: Peer) -> None:
        await read_request(peer)

    s = await stage(
        hang_up, route={"meters": {"requests": 1, "tokens": TOKENS}, "on_upstream_failure": policy, "retries": 0}
    )
    answer = await ask(await s.client(), prompt(s.key))
    assert (answer.status, answer.json()["code"]) == (502, "upstream_failed")
    event = await the_event(s, books)
    assert (event["meters"].get("tokens"), event["meters"]["requests"]) == (tokens, requests)
    assert event["outcome"] == "upstream_failed"


async def test_an_upstream_that_was_never_reached_costs_nothing(stage: MakeStage, books: Books) -> None:
    s = await stage(Model(), route={"origins": ["http://127.0.0.1:1"], "meters": {"tokens": TOKENS}})
    assert (await ask(await s.client(), prompt(s.key))).status == 502
    assert (await the_event(s, books))["meters"] == {"requests": 0}


async def test_an_answer_that_breaks_off(stage: MakeStage, books: Books) -> None:
    async def break_off(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n" + ANSWER[:60]
        )

    s = await stage(break_off, route={"meters": {"tokens": TOKENS}})
    client = await s.client()
    await client.send(prompt(s.key))
    with pytest.raises(EOFError):
        await read_answer(client)
    event = await the_event(s, books)
    assert (event["outcome"], event["meters"]["tokens"]) == ("upstream_failed", 500)
    assert event["notes"] == {"estimated": ["tokens"]}


async def test_usage_is_shown(stage: MakeStage, books: Books) -> None:
    quotas = {"tokens": 1_000, "duration_ms": None}
    s = await stage(Model(), tier={"quotas": quotas}, route={"meters": {"tokens": TOKENS}})
    client = await s.client()

    async def usage(meter: str) -> Answer:
        return await ask(client, request(f"/api/usage?meter={meter}", s.key))

    await ask(client, prompt(s.key))
    await s.inside.settled()
    shown = (await usage("tokens")).json()["usage"]
    assert (shown["count"], shown["limit"], shown["remaining"]) == (46, 1_000, 954)
    body = orjson.dumps({"meter": "tokens", "quantity": 54})
    counted = await ask(client, request("/api/data", s.key, method="POST", body=body))
    assert counted.json()["usage"]["count"] == 100
    shown = (await usage("duration_ms")).json()["usage"]
    await s.inside.settled()
    event, _ = await books.events()
    assert (shown["count"], shown["limit"]) == (event["meters"]["duration_ms"], None)

    refused = await usage("bytes_out")  # its counter is not kept for this customer
    assert (refused.status, refused.json()["code"]) == (422, "invalid")
    assert "tier" in refused.json()["detail"]


# -- usage that is asked for

ASKING = {"meters": {"requests": 1, "tokens": TOKENS}, "include_usage": True}


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {}], ids=["absent", "declined", "empty"])
async def test_usage_is_asked_for_and_hidden(stage: MakeStage, books: Books, options: Any) -> None:
    model = Model()
    s = await stage(model, route=ASKING)
    document = {"model": "m", "stream": True} | ({} if options is None else {"stream_options": options})
    body = orjson.dumps(document)
    lines = ("Content-Type: application/json", "Accept-Encoding: gzip, br", "Digest: sha-256=abc", "X-Kept: 1")
    client = await s.client()
    answer = await ask(client, request(PATHS["chat"], s.key, *lines, method="POST", body=body))
    assert model.asked == [document | {"stream_options": {"include_usage": True}}]
    head = model.heads[0].lower()
    assert b"accept-encoding: identity" in head
    assert b"x-kept: 1" in head
    assert head.count(b"accept-encoding") == head.count(b"content-length") == 1
    assert b"digest" not in head
    *chunks, _, done = chat_chunks(include_usage=True)
    assert answer.body == b"".join((*chunks, done))
    event = await the_event(s, books)
    assert event["meters"] == {
        "requests": 1, "tokens": 46, "bytes_in": len(body), "bytes_out": len(answer.body),
    }  # fmt: skip
    assert (await ask(client, prompt(s.key))).status == 200  # the next request is as it was
    assert "stream_options" not in model.asked[1]


async def test_who_asks_for_usage_gets_it(stage: MakeStage, books: Books) -> None:
    model = Model()
    s = await stage(model, route=ASKING)
    answer = await ask(await s.client(), prompt(s.key, stream=True))
    assert answer.body == b"".join(chat_chunks(include_usage=True))
    assert (await the_event(s, books))["meters"]["tokens"] == 46


@pytest.mark.parametrize("path", ["responses", "messages"])
async def test_other_requests_are_not_touched(stage: MakeStage, books: Books, path: str) -> None:
    model = Model()
    s = await stage(model, route=ASKING)
    answer = await ask(await s.client(), prompt(s.key, PATHS[path], stream=True))
    assert model.asked == [{"model": "m", "stream": True}]
    assert answer.body == model.sent[0]
    assert (await the_event(s, books))["meters"]["tokens"] == 46


async def test_a_chunked_request_in_pieces(stage: MakeStage, books: Books) -> None:
    model = Model()
    s = await stage(model, route=ASKING)
    client = await s.client()
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", "Expect: 100-continue")
    await client.send(request(PATHS["chat"], s.key, *lines, method="POST"))
    assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    for piece in (b'{"model":"m",', b'"stream"', b":true}"):
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0.005)
    await client.send(b"0\r\n\r\n")
    answer = await read_answer(client)
    assert model.asked == [{"stream_options": {"include_usage": True}, "model": "m", "stream": True}]
    assert b'usage":{' not in answer.body
    assert (await the_event(s, books))["meters"]["tokens"] == 46


async def test_a_request_that_is_large_enough_to_wait(stage: MakeStage, books: Books) -> None:
    model = Model()
    s = await stage(model, route=ASKING)
    body = orjson.dumps({"stream": True, "image": "x" * 1_000_000})
    answer = await ask(await s.client(), request(PATHS["chat"], s.key, method="POST", body=body))
    assert model.asked[0]["stream_options"] == {"include_usage": True}
    assert len(model.asked[0]["image"]) == 1_000_000
    assert b"total_tokens" not in answer.body
    assert (await the_event(s, books))["meters"]["bytes_in"] == len(body)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_that_is_too_large_goes_on_as_it_comes(stage: MakeStage, books: Books, chunked: bool) -> None:
    model = Model()
    s = await stage(model, route=ASKING)
    body = orjson.dumps({"stream": True, "image": "x" * 5_000_000})
    client = await s.client()
    if chunked:
        head = request(PATHS["chat"], s.key, "Transfer-Encoding: chunked", method="POST")
        pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
        await client.send(head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n")
    else:
        await client.send(request(PATHS["chat"], s.key, method="POST", body=body))
    answer = await read_answer(client)
    assert answer.body == b"".join(chat_chunks(include_usage=False))
    assert model.asked == [orjson.loads(body)]
    event = await the_event(s, books)
    assert event["notes"] == {"estimated": ["tokens"]}
    assert event["meters"]["bytes_in"] == len(body)


async def test_a_stream_with_a_length_loses_it_with_its_usage(stage: MakeStage, books: Books) -> None:
    *chunks, usage, done = chat_chunks(include_usage=True)
    body = b"".join((*chunks, usage, done))
    answer = ok(body, b"Content-Type: text/event-stream", b'ETag: "1"', b"Content-MD5: x", b"X-Kept: 1")
    s = await stage(answering(answer), route=ASKING)
    client = await s.client()
    body = b'{"stream":true}'
    for _ in range(2):
        answer_ = await ask(client, request(PATHS["chat"], s.key, method="POST", body=body))
        assert answer_.body == b"".join((*chunks, done))
        assert {"etag", "content-md5", "content-length"}.isdisjoint(answer_.headers)
        assert (answer_.headers["x-kept"], answer_.headers["transfer-encoding"]) == ("1", "chunked")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_cannot_be_changed_passes_whole(stage: MakeStage, books: Books, stream: bool) -> None:
    model = Model(coding="gzip" if stream else "")  # although it was told not to
    s = await stage(model, route=ASKING)
    body = orjson.dumps({"stream": stream, "n": 1})
    answer = await ask(await s.client(), request(PATHS["chat"], s.key, method="POST", body=body))
    assert answer.body == model.sent[0]
    assert (await the_event(s, books))["meters"]["tokens"] == 46


async def test_hidden_events_pass_without_delay(stage: MakeStage) -> None:
    model = Model(hold_after=2)
    s = await stage(model, route=ASKING)
    client = await s.client()
    await client.send(request(PATHS["chat"], s.key, method="POST", body=b'{"stream":true}'))
    await client.read_until(chat_chunks(include_usage=True)[1] + b"\r\n")
    model.go_on.set()
    assert b"total_tokens" not in await client.read_until(b"0\r\n\r\n")


async def test_a_client_that_leaves_while_it_uploads_pays_nothing(stage: MakeStage, books: Books) -> None:
    model = Model()
    s = await stage(model, route=ASKING)
    client = await s.client()
    head = request(PATHS["chat"], s.key, "Content-Length: 100", method="POST")
    await client.send(head + b'{"stream"')
    await until(books.reservations)
    drop(client)
    event = await the_event(s, books)
    assert (event["outcome"], event["meters"]) == ("client_gone", {"requests": 0})
    assert model.asked == []


@pytest.mark.parametrize(
    ("route", "settings", "status"),
    [
        ({"total_timeout_ms": 50}, {}, 504),
        ({}, {"body_timeout_ms": 400}, 408),
        ({"max_body_bytes": 20}, {}, 413),
    ],
)
async def test_an_upload_that_does_not_end_well(
    stage: MakeStage, books: Books, route: dict[str, Any], settings: dict[str, Any], status: int
) -> None:
    s = await stage(Model(), route=ASKING | route, **settings)
    client = await s.client()
    head = request(PATHS["chat"], s.key, "Transfer-Encoding: chunked", method="POST")
    await client.send(head + b"1e\r\n" + b"x" * 30 + b"\r\n")
    assert (await read_answer(client)).status == status
    assert (await the_event(s, books))["meters"] == {"requests": 0}
