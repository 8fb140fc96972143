"""curl, once straight to the origin and once through the gateway: the same transcript."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Counter, Door, Origins
from tests.support.upstreams.counting import FILE, pattern, pattern_digest

Doors = tuple[Door, Door]

_OF_THE_HOP = ("connection", "keep-alive", "date", "server", "via", "transfer-encoding", "x-request-id")
_OF_THE_GATEWAY = ("ratelimit", "x-ratelimit")
_ADDED_FOR_THE_ORIGIN = ("host", "via", "connection", "x-request-id", "x-api-key", "x-user-id")
_MET_BY_THE_GATEWAY = ("expect",)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one run of curl gave: exit status, standard output and error."""

    status: int
    out: bytes
    err: str


def curl(door: Door, *arguments: str, stdin: bytes = b"") -> Transcript:
    """Run curl with the door's headers; `{url}` in an argument stands for the door's base URL."""
    command = ["curl", "-sS", "--max-time", "30"]
    per_url = [part for name, value in door.headers.items() for part in ("-H", f"{name}: {value}")]
    words = [word.replace("{url}", door.url) for word in arguments]
    while "--next" in words:
        at = words.index("--next")
        command += [*per_url, *words[:at], "--next", "-sS"]
        words = words[at + 1 :]
    done = subprocess.run([*command, *per_url, *words], input=stdin, capture_output=True, timeout=40, check=False)
    return Transcript(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def head_of(answer: bytes) -> tuple[str, dict[str, str]]:
    """Status line and end-to-end header fields of an answer printed by `curl -i` or `-I`."""
    lines = answer.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return lines[0], {
        name: value
        for name, value in fields.items()
        if name not in _OF_THE_HOP and not name.startswith(_OF_THE_GATEWAY)
    }


def echoed(out: bytes) -> dict[str, Any]:
    """What the origin says it received, without what a gateway is there to add, take away or rewrite."""
    answer: dict[str, Any] = json.loads(out)
    answer["target"] = answer["target"].removeprefix("/c")
    answer["headers"] = sorted(
        (name.lower(), value)
        for name, value in answer["headers"]
        if name.lower() not in _ADDED_FOR_THE_ORIGIN + _MET_BY_THE_GATEWAY
        and not name.lower().startswith(("x-forwarded", "forwarded"))
    )
    return answer


def test_two_urls_in_one_invocation_share_one_connection(doors: Doors) -> None:
    seen = [
        curl(
            door,
            *("-w", "%{http_code} %{num_connects}\\n", "-o", "/dev/null", "-o", "/dev/null"),
            *("{url}/count", "{url}/count"),
        )
        for door in doors
    ]
    assert seen[0] == seen[1]
    assert seen[1].out == b"200 1\n200 0\n"


def test_one_connection_survives_answers_of_every_shape(doors: Doors) -> None:
    shapes = [
        "/status?code=204",
        "/status?code=304",
        "/status?code=404",
        "/trailers",
        "/body?framing=chunked",
        "/early",
    ]
    report = ["-w", "%{http_code} %{num_connects} %{size_download}\\n", "-o", "/dev/null"]
    words = [*report, "-I", "{url}/file"]
    for shape in shapes:
        words += ["--next", *report, "{url}" + shape]
    words += ["--next", *report, "-d", "x=1", "{url}/count"]
    seen = [curl(door, *words) for door in doors]
    assert seen[0] == seen[1]
    assert [line.split()[1] for line in seen[1].out.splitlines()] == [b"1", *[b"0"] * (len(shapes) + 1)]


def test_a_chunked_upload_arrives_whole_and_chunked(doors: Doors) -> None:
    body = b"".join(pattern(3_000_000))
    seen = [curl(door, "-T", "-", "{url}/echo", stdin=body) for door in doors]
    assert echoed(seen[0].out) == echoed(seen[1].out)
    answer = echoed(seen[1].out)
    assert (answer["length"], answer["sha256"]) == (3_000_000, sha256(body).hexdigest())
    assert ("transfer-encoding", "chunked") in answer["headers"]


def test_an_upload_with_a_length_keeps_it(doors: Doors, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(FILE)
    seen = [curl(door, "-T", str(tmp_path / "body"), "{url}/echo") for door in doors]
    assert echoed(seen[0].out) == echoed(seen[1].out)
    assert ("content-length", str(len(FILE))) in echoed(seen[1].out)["headers"]


def test_head_gives_the_head_of_get_and_no_body(doors: Doors) -> None:
    seen = [head_of(curl(door, "-I", "{url}/file").out) for door in doors]
    assert seen[0] == seen[1]
    assert seen[1][1]["content-length"] == str(len(FILE))


@pytest.mark.parametrize(("wanted", "status"), [("100-199", b"206"), ("70000-70001", b"416")])
def test_a_range_is_the_range(doors: Doors, wanted: str, status: bytes) -> None:
    seen = [curl(door, "-i", "-r", wanted, "{url}/file").out for door in doors]
    assert head_of(seen[0]) == head_of(seen[1])
    assert seen[0].partition(b"\r\n\r\n")[2] == seen[1].partition(b"\r\n\r\n")[2]
    assert status in seen[1].partition(b"\r\n")[0]


def test_a_condition_reaches_the_origin(doors: Doors) -> None:
    seen = [curl(door, "-i", "-H", 'If-None-Match: "pattern-1"', "{url}/file").out for door in doors]
    assert head_of(seen[0]) == head_of(seen[1])
    assert b" 304 " in seen[1].partition(b"\r\n")[0]


def test_expect_100_continue_is_answered_before_the_body(doors: Doors) -> None:
    words = ["-v", "-H", "Expect: 100-continue", "--expect100-timeout", "20", "--max-time", "10"]
    seen = [curl(door, *words, "--data-binary", "@-", "{url}/echo", stdin=FILE) for door in doors]
    for transcript in seen:
        assert "HTTP/1.1 100 Continue" in transcript.err, transcript.err
        assert json.loads(transcript.out)["sha256"] == sha256(FILE).hexdigest()


def test_a_gzip_answer_passes_unchanged(doors: Doors) -> None:
    seen = [curl(door, "-i", "-H", "Accept-Encoding: gzip", "{url}/gzip").out for door in doors]
    assert head_of(seen[0]) == head_of(seen[1])
    assert seen[0].partition(b"\r\n\r\n")[2] == seen[1].partition(b"\r\n\r\n")[2]
    assert curl(doors[1], "--compressed", "{url}/gzip").out == b"squeeze me " * 500


def test_a_gzip_upload_passes_unchanged(doors: Doors) -> None:
    words = ["-H", "Content-Encoding: gzip", "--data-binary", "@-", "{url}/echo"]
    seen = [echoed(curl(door, *words, stdin=FILE).out) for door in doors]
    assert seen[0] == seen[1]
    assert seen[1]["sha256"] == sha256(FILE).hexdigest()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
def test_every_framing_reaches_clients_of_both_versions(doors: Doors, version: str, framing: str) -> None:
    words = [version, "-w", "\n%{http_version}", f"{{url}}/body?bytes=700000&framing={framing}"]
    if (version, framing) == ("--http1.0", "chunked"):  # the origin is too simple to spare HTTP/1.0 clients its chunks
        seen = [curl(doors[1], *words)]
    else:
        seen = [curl(door, *words) for door in doors]
    for transcript in seen:
        body, _, _ = transcript.out.rpartition(b"\n")
        assert transcript.status == 0, transcript.err
        assert (len(body), sha256(body).hexdigest()) == (700_000, pattern_digest(700_000))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE"])
def test_every_method_reaches_the_origin(doors: Doors, method: str) -> None:
    seen = [echoed(curl(door, "-X", method, "{url}/echo?a=1&b=%20c&&d").out) for door in doors]
    assert seen[0] == seen[1]
    assert (seen[1]["method"], seen[1]["target"]) == (method, "/echo?a=1&b=%20c&&d")


def test_header_fields_pass_as_they_are_and_the_key_stops_at_the_gateway(doors: Doors) -> None:
    words = ["-H", "X-Twice: 1", "-H", "X-Twice: 2", "-H", "X-Empty;", "-H", "Cookie: a=b; c=d", "-u", "me:secret"]
    seen = [curl(door, *words, "{url}/echo").out for door in doors]
    assert echoed(seen[0]) == echoed(seen[1])
    assert doors[1].headers["X-API-Key"].encode() not in seen[1]


def test_hop_by_hop_fields_stop_at_the_gateway(doors: Doors) -> None:
    words = ["-H", "Connection: X-Private", "-H", "X-Private: 1", "-H", "Keep-Alive: 5", "-H", "TE: trailers"]
    fields = dict(echoed(curl(doors[1], *words, "{url}/echo").out)["headers"])
    assert not {"x-private", "keep-alive", "proxy-connection"} & set(fields)


def test_one_request_of_the_client_is_one_at_the_origin(doors: Doors, origins: Origins, request_id: str) -> None:
    counter: Counter = origins.counting
    assert curl(doors[1], f"{{url}}/count?id={request_id}").out == b"ok"
    assert counter.seen(request_id) == 1
