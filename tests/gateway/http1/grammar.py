"""Hypothesis strategies for HTTP/1.1 messages as RFC 9110 and RFC 9112 write them down, and for damaging them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st

# The same examples in every run, and nothing kept on disk: a failure is found by the commit that brings it.
examples = settings(max_examples=150, deadline=None, database=None, derandomize=True)

TCHARS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNRESERVED = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
PATH_CHARS = UNRESERVED + b"!$&'()*+,;=:@"
QUERY_CHARS = bytes(set(range(0x21, 0x7F)) - set(b'#"<>'))
VISIBLE = bytes((*range(0x21, 0x7F), *range(0x80, 0x100)))
SPOKEN_BY_LLHTTP = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"PROPFIND", b"PURGE")


def text(alphabet: bytes, min_size: int = 0, max_size: int = 12) -> st.SearchStrategy[bytes]:
    """Bytes out of an alphabet."""
    return st.lists(st.sampled_from(alphabet), min_size=min_size, max_size=max_size).map(bytes)


blanks = text(b" \t", max_size=3)
tokens = text(TCHARS, 1)
methods = st.sampled_from(SPOKEN_BY_LLHTTP)
words = text(VISIBLE, 1, 16)
values = st.lists(words, max_size=3).flatmap(lambda parts: text(b" \t", 1, 2).map(lambda gap: gap.join(parts)))
escapes = st.integers(0, 255).flatmap(lambda byte: st.sampled_from((b"%%%02X" % byte, b"%%%02x" % byte)))
troublesome = st.sampled_from((b".", b"..", b"%2e", b"%2E.", b"%2f", b"%5C", b"%25", b"%00", b";"))
segments = st.lists(text(PATH_CHARS, 1, 4) | escapes | troublesome, max_size=4).map(b"".join)
paths = st.lists(segments, min_size=1, max_size=5).map(lambda parts: b"/" + b"/".join(parts))
queries = st.none() | text(QUERY_CHARS, max_size=20)
lines = st.tuples(
    tokens.filter(lambda name: name.lower() not in {b"host", b"connection", b"content-length", b"transfer-encoding"}),
    blanks,
    values,
    blanks,
)
"""A field line in pieces: name, blanks, value, blanks. None of those that mean something for the message."""

hosts = st.sampled_from((b"a", b"api.example.com:8080", b"[::1]:80", b"10.0.0.1", b"x_y.example"))
framings = st.sampled_from(
    (b"", b"", b"Content-Length: 0\r\n", b"content-length:12 \r\n", b"Transfer-Encoding: Chunked\r\n")
)
connections = st.sampled_from(
    (b"", b"", b"Connection: close\r\n", b"connection: Keep-Alive, TE\r\n", b"Connection: ,x\r\n")
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A well-formed head of a request in origin form (whose path may still be one that is refused)."""
    path = draw(text(PATH_CHARS + b"/", max_size=12) | paths.map(lambda path: path[1:]))
    query = draw(queries)
    target = b"/" + path + (b"" if query is None else b"?" + query)
    parts = [
        name + b":" + before + value + after + b"\r\n"
        for name, before, value, after in draw(st.lists(lines, max_size=4))
    ]
    parts += [b"Host: " + draw(hosts) + b"\r\n", draw(framings), draw(connections)]
    return b"%b %b HTTP/1.1\r\n" % (draw(methods), target) + b"".join(draw(st.permutations(parts))) + b"\r\n"


FRAGMENTS = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x7f", b"\x80", b"\x0b", b"%",
    b"%2e", b"//", b"/..",
    b"Host: b\r\n", b"Content-Length: 1\r\n", b"Content-Length: +1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"\r\n folded\r\n", b"chunked", b"0x", b"_", b"-", b"0", b"HTTP/1.0", b"HTTP/1.1", b"http://a/",
    b"Upgrade: x\r\n", b"Connection: close\r\n",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """A message with a few pieces of it replaced by nothing, by a random byte or by something troublesome."""
    data = draw(messages)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = start + draw(st.sampled_from((0, 0, 1, 2, 5)))
        patch = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=1))
        data = data[:start] + patch + data[stop:]
    return data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at the given places (each taken modulo its length)."""
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:stop] for start, stop in pairwise(edges)]
