"""The meters of a route in a declaration: a fixed quantity, or where it comes from. Pure.

    5                        a fixed quantity
    $.usage.total_tokens     a member of the JSON answer; in an event stream, of the last event that has it
    /usage/total_tokens      the same as a JSON pointer (RFC 6901)
    header:X-Tokens          a field of the answer's head
    usage:total              the usage block of a language model's answer: input, uncached, cached, output, total
    bytes_in  bytes_out  duration_ms  messages_in  messages_out  messages
                             what the gateway itself measures

Failure: `parse_source` raises ValueError with what would be right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from ledger.spec_types import Spec

MEASURES: Final = ("bytes_in", "bytes_out", "messages_in", "messages_out", "messages", "duration_ms")
"""What the gateway measures on any route. A meter of such a name means that and nothing else."""

IN_EVERY_EVENT: Final = frozenset(("bytes_in", "bytes_out", "messages_in", "messages_out"))
"""The measures that events carry whether or not anybody asked; a quota counts them where the customer's tier names them."""

USAGE_PARTS: Final = ("input", "uncached", "cached", "output", "total")

_DOTTED: Final = re.compile(r"\$(?:\.[A-Za-z_][A-Za-z0-9_-]{0,63}|\[\d{1,6}\]){1,16}", re.ASCII)
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")
_POINTER: Final = re.compile(r"(?:/(?:[^~/\x00-\x1f\x7f\ud800-\udfff]|~[01]){0,64}){1,16}")
_HEADER: Final = re.compile(r"header:([A-Za-z][A-Za-z0-9-]{0,63})", re.ASCII)


class Origin(StrEnum):
    """What kind of thing a quantity is read from."""

    BODY = "body"
    HEADER = "header"
    USAGE = "usage"
    MEASURE = "measure"


@dataclass(frozen=True, slots=True)
class Source:
    """`name` is the header (lower case), the part of the usage block or the measure; `pointer` the way into a JSON body."""

    origin: Origin
    name: str = ""
    pointer: tuple[str, ...] = ()


def parse_source(text: str) -> Source:
    """A source from its text. Raises ValueError."""
    if text in MEASURES:
        return Source(Origin.MEASURE, text)
    if text.startswith("$") and _DOTTED.fullmatch(text):
        return Source(Origin.BODY, pointer=tuple(name or str(int(index)) for name, index in _STEP.findall(text)))
    if text.startswith("/") and _POINTER.fullmatch(text):
        return Source(Origin.BODY, pointer=tuple(_unescaped(step) for step in text[1:].split("/")))
    header = _HEADER.fullmatch(text)
    if header is not None:
        return Source(Origin.HEADER, header[1].lower())
    kind, _, part = text.partition(":")
    if kind == "usage" and part in USAGE_PARTS:
        return Source(Origin.USAGE, part)
    raise ValueError(
        "expected a source such as $.usage.total_tokens, /usage/total_tokens, header:X-Tokens, "
        f"usage:{'|'.join(USAGE_PARTS)} or {', '.join(MEASURES)}, got {text!r:.80}"
    )


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def _source_text(value: str) -> str:
    parse_source(value)
    return value


SourceText = Annotated[str, AfterValidator(_source_text)]


class MeterSpec(Spec):
    """A quantity that is known once the request is over. In YAML a bare source will do: `tokens: $.usage.total_tokens`."""

    source: SourceText
    """Where it is read (ledger.meters)."""
    estimate: int = Field(default=1, ge=1, le=1_000_000_000)
    """What is reserved before, and what counts where the answer does not say."""

    @property
    def reads_body(self) -> bool:
        """True if the quantity is somewhere in the answer's body."""
        return parse_source(self.source).origin in (Origin.BODY, Origin.USAGE)


def _meter_kind(value: Any) -> str:
    return "[measured]" if isinstance(value, str | dict | MeterSpec) else "[fixed]"


def _bare_source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


Meter = Annotated[
    Annotated[int, Field(ge=0, le=1_000_000_000, strict=True), Tag("[fixed]")]
    | Annotated[MeterSpec, BeforeValidator(_bare_source), Tag("[measured]")],
    Discriminator(_meter_kind),
]


def one_request() -> dict[str, int | MeterSpec]:
    """What a route counts that says nothing about it."""
    return {"requests": 1}


class UpstreamFailure(StrEnum):
    """What a request costs that was sent to an upstream which then gave no answer."""

    CHARGE = "charge"
    """As if it had been answered, the estimate for what only an answer could tell: the work may have been done."""
    FREE = "free"
