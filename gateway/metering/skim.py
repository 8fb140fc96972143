"""Finds values at given places of a JSON document of any size while its bytes pass, keeping almost none. Pure.

For documents too large to be kept and parsed. Containers that no place leads into are passed over at the speed of a
regular expression, looking only for strings and brackets. Kept between calls: an unfinished token (at most MAX_TOKEN), and
the container at a place, while it is read (at most MAX_VALUE).

How it fails: never with an exception. What is not balanced JSON makes `is_whole` false and stops the reading; a value
that is too large, or is no JSON, counts as absent. This is no validator: what it passes over is only checked for balance.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from gateway.metering.findings import Findings, Wanted

MAX_TOKEN: Final = 1_024
MAX_VALUE: Final = 16_384
_MAX_DEPTH: Final = 64

_blanks: Final = re.compile(rb"[ \t\r\n]*+").match
_string: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*"', re.DOTALL).match
_rest_of_string: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL).match
_scalar: Final = re.compile(rb'[^ \t\r\n"{}\[\],:]++').match
_passed_over: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*"?|[{}\[\]]', re.DOTALL).finditer

_VALUE, _KEY, _COLON, _COMMA = range(4)


class _Frame:
    """A container on the way to a place: `node` is what can follow in the trie, `step` the member being read."""

    __slots__ = ("index", "is_object", "next", "node", "step")

    def __init__(self, node: dict[str, Any], *, is_object: bool) -> None:
        self.node = node
        self.is_object = is_object
        self.index = 0
        self.step = "0"
        self.next = _KEY if is_object else _VALUE


class Skimmer:
    """Reads one document, fed piece by piece; what it finds goes into `findings`."""

    __slots__ = (
        "_captured",
        "_depth",
        "_failed",
        "_findings",
        "_frames",
        "_in_string",
        "_place",
        "_rest",
        "_seen",
        "_trie",
    )

    def __init__(self, wanted: Wanted, findings: Findings) -> None:
        self._trie = wanted.trie
        self._findings = findings
        self._frames: list[_Frame] = []
        self._rest = b""
        self._depth = 0  # of brackets inside what is passed over or captured
        self._captured: bytearray | None = None
        self._place: tuple[str, ...] = ()
        self._in_string = False  # inside one that is of no interest
        self._seen = False
        self._failed = False

    @property
    def is_whole(self) -> bool:
        """True once a document has come to its end, and nothing else was there."""
        return self._seen and not (self._failed or self._frames or self._depth or self._in_string or self._rest)

    def feed(self, data: bytes) -> None:
        """Look at the next bytes."""
        if self._failed:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        while 0 <= at < end and not self._failed:
            if self._in_string:
                at = self._leave_string(data, at)
            elif self._depth:
                at = self._pass_over(data, at)
            else:
                at = self._walk(data, at)

    # -- strings of no interest, and containers that are passed over or captured. Each returns where to go on, -1 for later

    def _leave_string(self, data: bytes, at: int) -> int:
        matched = _rest_of_string(data, at)
        assert matched is not None
        stop = matched.end()
        if stop == len(data):
            return -1
        if data[stop] == 0x5C:  # a backslash at the very end: what it escapes is still to come
            self._rest = b"\\"
            return -1
        self._in_string = False
        return stop + 1

    def _pass_over(self, data: bytes, at: int) -> int:
        depth, stop = self._depth, len(data)
        for token in _passed_over(data, at):
            first = data[token.start()]
            if first == 0x22:
                if token.end() - token.start() == 1 or data[token.end() - 1] != 0x22 or _is_open(token[0]):
                    stop = token.start()
                    break
            elif first in b"{[":
                depth += 1
            else:
                depth -= 1
                if not depth:
                    stop = token.end()
                    break
        self._depth = depth
        captured = self._captured
        if captured is not None:
            captured += data[at:stop]
            if len(captured) > MAX_VALUE:
                self._captured = None
            elif not depth:
                self._captured = None
                self._found(bytes(captured))
        if not depth:
            self._value_done()
            return stop
        if stop < len(data):  # a string that goes on in the next piece
            return self._begin_string(data, stop)
        return -1

    def _begin_string(self, data: bytes, at: int) -> int:
        """A string whose end has not come: wait for it, or pass over it if it is too long to matter."""
        if self._captured is not None:
            if len(data) - at + len(self._captured) <= MAX_VALUE:
                self._rest = data[at:]
                return -1
            self._captured = None
        elif len(data) - at <= MAX_TOKEN and not self._depth:
            self._rest = data[at:]
            return -1
        self._in_string = True
        return at + 1

    # -- containers on the way to a place

    def _walk(self, data: bytes, at: int) -> int:
        blank = _blanks(data, at)
        assert blank is not None
        at = blank.end()
        if at == len(data):
            return -1
        first = data[at]
        frame = self._frames[-1] if self._frames else None
        if frame is None and self._seen:
            return self._fail()
        if first == 0x22:
            matched = _string(data, at)
            if matched is None:
                stop = self._begin_string(data, at)
                if self._in_string:
                    self._string(frame, None)
                return stop
            self._string(frame, matched[0])
            return matched.end()
        if first in b"}]":
            if frame is None or frame.is_object != (first == 0x7D) or frame.next == _COLON:
                return self._fail()
            self._frames.pop()
            self._value_done()
        elif first == 0x2C:
            if frame is None or frame.next != _COMMA:
                return self._fail()
            frame.index += 1
            if frame.is_object:
                frame.next = _KEY
            else:
                frame.step, frame.next = str(frame.index), _VALUE
        elif first == 0x3A:
            if frame is None or frame.next != _COLON:
                return self._fail()
            frame.next = _VALUE
        elif frame is not None and frame.next != _VALUE:
            return self._fail()
        elif first in b"{[":
            return self._enter(frame, data, at)
        else:
            scalar = _scalar(data, at)
            assert scalar is not None
            if scalar.end() == len(data):  # the rest of it may still come
                self._rest = data[at:]
                return self._fail() if len(self._rest) > MAX_TOKEN else -1
            self._value(frame, scalar[0])
            return scalar.end()
        return at + 1

    def _enter(self, frame: _Frame | None, data: bytes, at: int) -> int:
        self._seen = True
        node = self._trie if frame is None else frame.node.get(frame.step)
        if type(node) is dict:
            if len(self._frames) >= _MAX_DEPTH:
                return self._fail()
            self._frames.append(_Frame(node, is_object=data[at] == 0x7B))
        else:
            self._depth = 1
            if type(node) is tuple:
                self._place, self._captured = node, bytearray(data[at : at + 1])
        return at + 1

    def _string(self, frame: _Frame | None, text: bytes | None) -> None:
        """A string; None for one too long to be anything that is looked for."""
        if frame is not None and frame.next == _KEY:
            key = None if text is None else self._parsed(text)
            frame.step, frame.next = key if type(key) is str else "", _COLON
        elif frame is not None and frame.next != _VALUE:
            self._fail()
        else:
            self._value(frame, text)

    def _value(self, frame: _Frame | None, text: bytes | None) -> None:
        self._seen = True
        place = None if frame is None else frame.node.get(frame.step)
        if type(place) is tuple:
            self._place = place
            self._found(text if text is not None else b'""')
        self._value_done()

    def _value_done(self) -> None:
        if self._frames:
            self._frames[-1].next = _COMMA

    def _found(self, text: bytes) -> None:
        value = self._parsed(text)
        if value is not None:
            self._findings.see_at(self._place, value)

    def _parsed(self, text: bytes) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            self._fail()
            return None

    def _fail(self) -> int:
        self._failed = True
        return -1


def _is_open(token: bytes) -> bool:
    """True for a string token that ends with an escaped quote: its own has not come."""
    inside = token[1:-1]
    return (len(inside) - len(inside.rstrip(b"\\"))) % 2 == 1
