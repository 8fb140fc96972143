"""Reading an upstream's answers: the same however they are cut, and nothing that belongs to nobody gets through."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import ClientGone
from gateway.proxy.upstream import MAX_HEAD_BYTES
from ledger import problems
from tests.gateway.http1.grammar import cut, examples
from tests.gateway.proxy.lines import Line

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
ANSWERS = {
    "length": OK,
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 99\r\n\r\n',
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
    "old": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "no reason": b"HTTP/1.1 299\r\nContent-Length: 2\r\n\r\nok",
    "binary": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\r\n\0",
    "error": b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\nbusy",
}
each_answer = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())


def answered(*pieces: bytes, method: bytes = b"GET") -> tuple[object, ...]:
    line = Line()
    asked = line.ask(method)
    line.receive(*pieces)
    assert line.is_reusable
    return asked.summary()


# -- however it is cut


@each_answer
def test_an_answer_cut_anywhere_is_the_same_answer(answer: bytes) -> None:
    whole = answered(answer)
    assert whole[0] == "complete"
    for place in range(1, len(answer)):
        assert answered(answer[:place], answer[place:]) == whole


@each_answer
def test_an_answer_byte_by_byte_is_the_same_answer(answer: bytes) -> None:
    assert answered(*(answer[n : n + 1] for n in range(len(answer)))) == answered(answer)


@given(st.sampled_from(sorted(ANSWERS.values())), st.lists(st.integers(0, 1_000), max_size=6))
@examples
def test_an_answer_in_any_pieces_is_the_same_answer(answer: bytes, places: list[int]) -> None:
    assert answered(*cut(answer, places)) == answered(answer)


@given(st.binary(max_size=300), st.lists(st.integers(0, 1_000), max_size=8), st.lists(st.integers(1, 40), max_size=8))
@examples
def test_a_chunked_body_arrives_byte_for_byte(body: bytes, places: list[int], sizes: list[int]) -> None:
    chunks, rest = [], body
    for size in (*sizes, len(body)):
        if rest:
            chunks.append(b"%x\r\n%b\r\n" % (len(rest[:size]), rest[:size]))
            rest = rest[size:]
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"
    outcome, _, received, *_ = answered(*cut(answer, places))
    assert (outcome, received) == ("complete", body)


@each_answer
def test_an_answer_that_ends_too_early_is_never_complete(answer: bytes) -> None:
    whole = answered(answer)
    for size in range(len(answer)):
        line = Line()
        asked = line.ask()
        line.receive(answer[:size])
        line.hang_up()
        outcome, lead, body, _, problem, _ = asked.summary()
        assert (outcome, problem) == ("broken", problems.UPSTREAM_FAILED)
        assert whole[2].startswith(body)  # type: ignore[attr-defined]
        assert lead in (None, whole[1])
        assert line.pool.released == []


# -- framing


def test_until_close_ends_where_the_connection_does() -> None:
    line = Line()
    asked = line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def")
    assert asked.outcome == "answering"
    line.hang_up()
    assert (asked.outcome, asked.client.body) == ("complete", b"abcdef")


@pytest.mark.parametrize("error", [ConnectionResetError(), None], ids=["reset", "no closing alert"])
def test_until_close_is_broken_by_an_end_that_nobody_announced(error: Exception | None) -> None:
    line = Line()
    asked = line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\n\r\nabc")
    line.hang_up(error, says_so=False)
    assert asked.problem is problems.UPSTREAM_FAILED


@pytest.mark.parametrize("framing", [b"Content-Length: 5000", b"Transfer-Encoding: chunked", b"X: y"])
def test_the_answer_to_head_has_no_body_whatever_it_says(framing: bytes) -> None:
    line = Line()
    asked = line.ask(b"HEAD")
    line.receive(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
    assert (asked.outcome, asked.client.body, line.is_reusable) == ("complete", b"", True)


def test_a_head_remembered_from_a_get_does_not_promise_a_body_to_a_head_and_back() -> None:
    line = Line()
    for method, body in ((b"GET", b"hello"), (b"HEAD", b""), (b"HEAD", b""), (b"GET", b"hello"), (b"GET", b"hello")):
        asked = line.ask(method)
        line.receive(OK if body else OK.removesuffix(b"hello"))
        assert (asked.outcome, asked.client.body) == ("complete", body)
    assert line.pool.released == [line.connection] * 5


def test_a_head_that_begins_like_the_one_before_is_another_head() -> None:
    line = Line()
    line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
    asked = line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1", b"2\r\n\r\nabcdefghijkl")
    assert (asked.outcome, asked.client.body) == ("complete", b"abcdefghijkl")


def test_what_no_length_may_be_said_of_goes_without() -> None:
    line = Line()
    asked = line.ask()
    line.receive(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX: y\r\n\r\n")
    assert asked.response is not None
    assert asked.response.lead == b"HTTP/1.1 204 No Content\r\nX: y\r\n"


def test_a_body_is_passed_on_as_it_is_and_as_it_comes() -> None:
    squeezed = gzip.compress(b"squeeze me " * 50)
    line = Line()
    asked = line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(squeezed))
    assert asked.client.heads_flushed == 1  # the head does not wait for the body
    for n, byte in enumerate(squeezed):
        line.receive(bytes((byte,)))
        assert asked.client.body == squeezed[: n + 1]
    assert asked.outcome == "complete"


@pytest.mark.parametrize(("minor", "passed"), [(1, [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n"]), (0, [])])
def test_hints_are_passed_on_to_who_can_read_them_and_100_is_not(minor: int, passed: list[bytes]) -> None:
    line = Line()
    asked = line.ask(minor=minor)
    line.receive(ANSWERS["interim"])
    assert (asked.outcome, asked.client.body, asked.client.interims) == ("complete", b"hello", passed)


# -- what belongs to nobody


@pytest.mark.parametrize("answer", [OK, ANSWERS["chunked"], ANSWERS["no content"]], ids=["length", "chunked", "none"])
def test_bytes_after_an_answer_end_the_connection_and_reach_nobody(answer: bytes) -> None:
    line = Line()
    asked = line.ask()
    line.receive(answer + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET")
    assert asked.outcome == "complete"
    assert b"SECRET" not in asked.client.body
    assert (line.pool.released, line.transport.ended) == ([], "closed")


def test_bytes_between_two_exchanges_end_the_connection() -> None:
    line = Line()
    line.ask()
    line.receive(OK)
    assert line.is_reusable
    line.receive(b"HTTP/1.1 200 OK\r\n")
    assert line.transport.ended == "aborted"
    assert not line.connection.is_usable()


@pytest.mark.parametrize(
    ("head", "is_reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_a_connection_is_used_again_only_if_the_upstream_keeps_it(head: bytes, is_reusable: bool) -> None:
    line = Line()
    asked = line.ask()
    line.receive(head + b"Content-Length: 2\r\n\r\nok")
    assert asked.outcome == "complete"
    assert line.is_reusable is is_reusable
    assert line.transport.ended == ("" if is_reusable else "closed")


def test_an_answer_before_the_request_was_whole_ends_the_connection_at_once() -> None:
    line = Line()
    asked = line.ask(b"POST", b"Content-Length: 1000", body=[b"some"])
    line.receive(OK)
    assert asked.outcome == "complete"
    assert line.pool.released == []
    assert line.transport.ended == "aborted"  # an upstream that reads no further must not keep it open


def test_an_exchange_that_is_over_has_nothing_to_do_with_its_connection_any_more() -> None:
    line = Line()
    asked = line.ask()
    line.receive(OK)
    assert asked.ex.upstream is None


def test_a_client_that_left_takes_the_connection_with_it() -> None:
    line = Line()
    asked = line.ask()
    line.receive(OK[:-2])
    asked.ex.throw(ClientGone())
    line.connection.abort()
    line.hang_up()
    assert (line.pool.released, line.pool.lost_ones) == ([], [line.connection])


# -- what is not HTTP


@pytest.mark.parametrize(
    "head",
    [
        b"hello\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nSet-Cookie: hunter2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: hunter2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"\x16\x03\x01\x00",
    ],
)
def test_a_head_that_is_not_http_is_a_clean_502(head: bytes) -> None:
    line = Line()
    asked = line.ask()
    line.receive(head)
    assert (asked.problem, asked.response, asked.client.body) == (problems.UPSTREAM_INVALID, None, b"")
    assert line.transport.ended == "aborted"
    assert "hunter2" not in str(asked.broken)


@pytest.mark.parametrize("damage", [b"zz\r\n", b"5\r\nhelloXX", b"-1\r\n", b"0\r\nbad trailer\r\n\r\n"])
def test_a_chunked_body_that_goes_wrong_is_broken_off(damage: bytes) -> None:
    line = Line()
    asked = line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", damage)
    assert (asked.outcome, asked.problem) == ("broken", problems.UPSTREAM_INVALID)
    assert asked.client.body in (b"hi", b"hihello")


def test_a_head_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    frame = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: %b\r\n\r\n"
    room = MAX_HEAD_BYTES - len(frame % b"")
    for size, outcome in ((room, "complete"), (room + 1, "broken")):
        line = Line()
        asked = line.ask()
        line.receive(*cut(frame % (b"x" * size), [5, 40_000]))
        assert asked.outcome == outcome


def test_a_head_without_end_is_refused_before_it_fills_the_memory() -> None:
    line = Line()
    asked = line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\n")
    for _ in range(10_000):
        line.receive(b"X: %b\r\n" % (b"x" * 100))
        if asked.outcome == "broken":
            break
    assert asked.problem is problems.UPSTREAM_INVALID


def test_too_many_fields_are_refused() -> None:
    line = Line()
    asked = line.ask()
    line.receive(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n")
    assert asked.problem is problems.UPSTREAM_INVALID


@pytest.mark.parametrize("per_piece", [1, 5_000])
def test_interim_answers_without_end_are_refused(per_piece: int) -> None:
    line = Line()
    asked = line.ask()
    for _ in range(5_000 // per_piece):
        line.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" * per_piece)
    assert asked.problem is problems.UPSTREAM_INVALID


# -- how far it had come


def test_a_connection_that_was_closed_before_it_was_used_again_is_stale() -> None:
    line = Line()
    line.ask()
    line.receive(OK)
    asked = line.ask()
    line.hang_up()
    assert asked.broken is not None
    assert (asked.broken.was_connected, asked.broken.was_reused) == (True, True)


@pytest.mark.parametrize(
    ("first", "said", "then"),
    [
        (None, b"", "hang up"),
        (OK, b"H", "hang up"),
        (OK, b"HTTP/1.1 100 Continue\r\n\r\n", "hang up"),
        (OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hang up"),
        (OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "hang up"),
        (OK, b"", "time out"),
        (OK, b"garbage\r\n\r\n", ""),
    ],
    ids=["fresh", "a byte", "interim", "head", "body", "silence", "garbage"],
)
def test_an_upstream_that_may_have_acted_is_never_called_stale(first: bytes | None, said: bytes, then: str) -> None:
    line = Line()
    if first:
        line.ask()
        line.receive(first)
    asked = line.ask()
    line.receive(*([said] if said else []))
    if then == "hang up":
        line.hang_up()
    elif then == "time out":
        line.connection.time_out()
    assert asked.broken is not None
    assert (asked.broken.was_connected, asked.broken.was_reused) == (True, False)


def test_silence_is_a_timeout() -> None:
    line = Line()
    asked = line.ask()
    line.connection.time_out()
    assert (asked.problem, line.transport.ended) == (problems.UPSTREAM_TIMEOUT, "aborted")


# -- the request body


def test_what_came_of_a_body_before_is_sent_with_the_head_and_the_rest_as_it_comes() -> None:
    line = Line()
    asked = line.ask(b"PUT", b"Content-Length: 9", body=[b"one", b"two"])
    assert line.transport.written == b"PUT / HTTP/1.1\r\n\r\nonetwo"
    asked.ex.body_data(b"end")
    asked.ex.body_end()
    assert line.transport.written.endswith(b"onetwoend")
    line.receive(OK)
    assert line.is_reusable


def test_a_chunked_body_is_chunked_anew() -> None:
    line = Line()
    asked = line.ask(b"PUT", b"Transfer-Encoding: chunked", body=[b"one", b"twelve bytes"])
    asked.ex.body_data(b"x")
    asked.ex.body_end(b"X-Sum: 1\r\n")
    _, _, body = line.transport.written.partition(b"\r\n\r\n")
    assert body == b"3\r\none\r\nc\r\ntwelve bytes\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"


def test_a_chunked_body_that_is_whole_already_is_sent_whole() -> None:
    line = Line()
    asked = line.ask(b"PUT", b"Transfer-Encoding: chunked", body=None)
    assert line.transport.written == b"PUT / HTTP/1.1\r\n\r\n0\r\n\r\n"
    assert asked.outcome == "waiting"


# -- backpressure


def test_a_slow_upstream_holds_the_client_and_a_slow_client_the_upstream() -> None:
    line = Line()
    asked = line.ask(b"PUT", b"Content-Length: 9", body=[b"one"])
    line.connection.pause_writing()
    assert not asked.client.is_reading
    line.connection.resume_writing()
    assert asked.client.is_reading
    line.connection.pause_reading()
    assert not line.transport.is_reading
    line.connection.resume_reading()
    assert line.transport.is_reading


def test_a_connection_that_was_held_is_free_when_it_goes_back() -> None:
    line = Line()
    line.ask()
    line.receive(OK[:-1])
    line.connection.pause_reading()
    line.receive(OK[-1:])  # was on its way already
    assert line.is_reusable
    assert line.transport.is_reading
