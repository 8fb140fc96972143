"""Reads what an answer says about its own cost, on a copy of its bytes, as they pass.

Which way follows from the answer's head: JSON is kept up to KEPT bytes and parsed at its end, larger documents are
skimmed (gateway.metering.skim); an event stream is read event by event; content codings are undone first. Other types
say nothing. Bounds: KEPT, or what the skimmer, the splitter and the decoder keep; never the stream.

How it fails: never with an exception. What cannot be read (no JSON, broken or boundless coding) leaves no findings, and
the meters fall back to their estimates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import orjson

from gateway.metering.codings import Decoder, Undecodable, decoder_of
from gateway.metering.events import EventSplitter, data_of
from gateway.metering.findings import Findings, Wanted
from gateway.metering.skim import Skimmer

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.http1.fields import Fields

KEPT: Final = 262_144
EVENT_STREAM: Final = b"text/event-stream"


class _Body(Protocol):
    """Reads the decoded bytes of one kind of answer."""

    events: int
    """How many events with data passed (0 where there are none)."""

    def feed(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class JsonBody:
    """One JSON document."""

    __slots__ = ("_findings", "_kept", "_size", "_skimmer", "_wanted", "events")

    def __init__(self, wanted: Wanted, findings: Findings) -> None:
        self._wanted = wanted
        self._findings = findings
        self._kept: list[bytes] = []
        self._size = 0
        self._skimmer: Skimmer | None = None
        self.events = 0

    def feed(self, data: bytes) -> None:
        if self._skimmer is not None:
            self._skimmer.feed(data)
            return
        self._kept.append(data)
        self._size += len(data)
        if self._size > KEPT:
            self._skimmer = Skimmer(self._wanted, self._findings)
            for piece in self._kept:
                self._skimmer.feed(piece)
            self._kept.clear()

    def finish(self) -> None:
        if self._skimmer is not None:
            if not self._skimmer.is_whole:
                self._findings.forget()
            return
        _see(self._findings, b"".join(self._kept))


class EventStreamBody:
    """Events, each of which may hold a JSON document."""

    __slots__ = ("_findings", "_may_hold", "_splitter", "events")

    def __init__(self, wanted: Wanted, findings: Findings) -> None:
        self._findings = findings
        self._may_hold = wanted.may_hold
        self._splitter = EventSplitter()
        self.events = 0

    def feed(self, data: bytes) -> None:
        if self._splitter.is_between_events and data.endswith(b"\n\n") and not self._may_hold(data):
            # whole events that say nothing: nearly all of them
            self.events += min(data.count(b"\n\n"), data.count(b"\ndata:") + data.startswith(b"data:"))
            return
        for event, is_whole in self._splitter.feed(data):
            self._event(event, is_whole=is_whole)

    def finish(self) -> None:
        event, is_whole = self._splitter.finish()
        if event:
            self._event(event, is_whole=is_whole)

    def _event(self, event: bytes, *, is_whole: bool) -> None:
        if is_whole and b"data:" in event:
            self.events += 1
            if self._may_hold(event):
                _see(self._findings, data_of(event))


class Editor(Protocol):
    """Takes something out of a body that passes (gateway.metering.ask)."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class AnswerReader:
    """One answer: its head, and its body as it passes. `findings` is good once `finish` was called.

    `editor` is what changes the body before it passes; what is read is what was sent.
    """

    __slots__ = ("_body", "_decoder", "editor", "fields", "findings", "has_body", "status")

    def __init__(self, wanted: Wanted | None, status: int, fields: Fields, *, has_body: bool) -> None:
        self.status = status
        self.fields = fields
        self.has_body = has_body
        self.findings: Findings | None = None
        self.editor: Editor | None = None
        self._body: _Body | None = None
        self._decoder: Decoder | None = None
        if wanted is not None and has_body:
            self.findings = Findings(wanted)
            self._body = self._body_of(wanted, self.findings)

    def _body_of(self, wanted: Wanted, findings: Findings) -> _Body | None:
        kind = media_type(self.fields)
        body: _Body
        if kind == EVENT_STREAM:
            body = EventStreamBody(wanted, findings)
        elif kind == b"application/json" or kind.endswith(b"+json"):
            body = JsonBody(wanted, findings)
        else:
            return None
        coding = self.fields.index.get(b"content-encoding", b"identity")
        if coding.lower() != b"identity":
            self._decoder = decoder_of(coding, body.feed)
            if self._decoder is None or b"content-encoding" in self.fields.repeated:
                return None
        return body

    @property
    def events(self) -> int:
        """How many events with data have passed so far."""
        return 0 if self._body is None else self._body.events

    def pass_on(self, ex: Exchange, data: bytes) -> None:
        """A piece of the body: first it goes to the client, then it is read."""
        passing = data if self.editor is None else self.editor.feed(data)
        if passing:
            ex.bytes_out += len(passing)
            ex.client.write_body(passing)
        self.feed(data)

    def pass_rest(self, ex: Exchange) -> None:
        """The body is whole: pass on what was held back of it."""
        rest = b"" if self.editor is None else self.editor.finish()
        if rest:
            ex.bytes_out += len(rest)
            ex.client.write_body(rest)

    def feed(self, data: bytes) -> None:
        """A piece of the body, as it was sent."""
        body = self._body
        if body is None:
            return
        if self._decoder is None:
            body.feed(data)
            return
        try:
            self._decoder.feed(data)
        except Undecodable:
            self._body = None
            if self.findings is not None:
                self.findings.forget()

    def finish(self) -> None:
        """The body is over, whole or not."""
        if self._body is not None:
            self._body.finish()


def media_type(fields: Fields) -> bytes:
    """The media type of a body, in lower case and without parameters."""
    return fields.index.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _see(findings: Findings, text: bytes) -> None:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    findings.see(document)
