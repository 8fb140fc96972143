"""What has been found in an answer's JSON so far: the values at the places a route's meters look at. Pure.

A place is a JSON pointer as a tuple of steps. Later values replace earlier ones; null and absent ones do not, so in an
event stream the last event that says something counts. The usage block is looked for where the usual APIs have it, and
its members are merged one by one: OpenAI's chat completions send it whole in one chunk (or growing, in each), its
responses API inside `response` of the last event, Anthropic's messages in two parts, `message_start` (input, a first
output) and `message_delta` (cumulative output).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

Pointer = tuple[str, ...]

USAGE_PLACES: Final[tuple[Pointer, ...]] = (("usage",), ("message", "usage"), ("response", "usage"))


class Wanted:
    """The places that a route's meters look at, made ready once: `trie` leads to them, `may_hold` tells hopeless bytes.

    A place inside another one is read from that one's value.
    """

    __slots__ = ("_needles", "pointers", "trie", "usage")

    def __init__(self, pointers: tuple[Pointer, ...], *, usage: bool) -> None:
        self.pointers = pointers
        self.usage = usage
        places = (*pointers, *USAGE_PLACES) if usage else pointers
        self.trie: dict[str, Any] = {}
        for place in sorted(places, key=len):
            self._add(place)
        self._needles = _needles(places)

    def may_hold(self, text: bytes) -> bool:
        """False for JSON that certainly has nothing, or null, at these places. To ask costs a tenth of parsing."""
        for needle, null, spaced_null in self._needles:
            found = text.count(needle)
            if found and found > text.count(null) + text.count(spaced_null):
                return True
        return not self._needles or b"\\u" in text  # names can be written with escapes

    def _add(self, place: Pointer) -> None:
        node = self.trie
        for step in place[:-1]:
            node = node.setdefault(step, {})
            if type(node) is tuple:
                return  # inside a place that is read whole
        node.setdefault(place[-1], place)


def _needles(places: tuple[Pointer, ...]) -> tuple[tuple[bytes, bytes, bytes], ...]:
    """What is in any JSON that has something at one of the places: the last name, quoted; and how it looks with null.

    Nothing, if that is not certain.
    """
    needles: set[bytes] = set()
    for place in places:
        name = next((step for step in reversed(place) if not step.isdigit()), None)
        quoted = orjson.dumps(name)
        if name is None or not name.isascii() or b"\\" in quoted or "/" in name:
            return ()  # it may be written in several ways, or not at all
        needles.add(quoted)
    return tuple((needle, needle + b":null", needle + b": null") for needle in sorted(needles))


class Findings:
    """What was found in one answer. `usage` holds the merged members of its usage blocks, None without any."""

    __slots__ = ("_wanted", "usage", "values")

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.values: dict[Pointer, Any] = {}
        self.usage: dict[str, Any] | None = None

    def forget(self) -> None:
        """Believe none of it."""
        self.values.clear()
        self.usage = None

    def see(self, document: Any) -> None:
        """Look at a whole document."""
        wanted = self._wanted
        for pointer in wanted.pointers:
            value = resolve(document, pointer)
            if value is not None:
                self.values[pointer] = value
        if wanted.usage:
            for place in USAGE_PLACES:
                self._see_usage(resolve(document, place))

    def see_at(self, place: Pointer, value: Any) -> None:
        """Look at the value that stands at a place of the document."""
        wanted = self._wanted
        for pointer in wanted.pointers:
            if pointer[: len(place)] == place:
                found = resolve(value, pointer[len(place) :])
                if found is not None:
                    self.values[pointer] = found
        if wanted.usage and place in USAGE_PLACES:
            self._see_usage(value)

    def _see_usage(self, block: Any) -> None:
        if type(block) is dict:
            known = {name: value for name, value in block.items() if value is not None}
            self.usage = known if self.usage is None else self.usage | known


def resolve(document: Any, pointer: Pointer) -> Any:
    """The value a pointer leads to, None if there is nothing."""
    for step in pointer:
        if type(document) is dict:
            document = document.get(step)
        elif type(document) is list and step.isascii() and step.isdigit() and (step == "0" or step[0] != "0"):
            document = document[int(step)] if int(step) < len(document) else None
        else:
            return None
    return document


def usage_part(block: Mapping[str, Any], part: str) -> Any:
    """`input`, `uncached`, `cached`, `output` or `total` tokens of a merged usage block; None if it does not say.

    The result is whatever stands there, and need not be a number. OpenAI's input includes what came from a cache,
    Anthropic's does not: here `input` always does.
    """
    if part == "output":
        return _first(block, "completion_tokens", "output_tokens")
    if part == "total" and "total_tokens" in block:
        return block["total_tokens"]
    cached = _cached(block)
    total = _first(block, "prompt_tokens", "input_tokens")
    if "prompt_tokens" not in block and ("cache_read_input_tokens" in block or "cache_creation_input_tokens" in block):
        total = _sum(total, cached, block.get("cache_creation_input_tokens", 0))  # Anthropic
    if part == "input":
        return total
    if part == "cached":
        return cached
    if part == "uncached":
        return _sum(total, _sum(cached, sign=-1))
    output = _first(block, "completion_tokens", "output_tokens")
    if output is None and total is not None and "prompt_tokens" in block:
        output = 0  # embeddings have no output
    return _sum(total, output)


def _cached(block: Mapping[str, Any]) -> Any:
    for details in ("prompt_tokens_details", "input_tokens_details"):
        inside = block.get(details)
        if type(inside) is dict and inside.get("cached_tokens") is not None:
            return inside["cached_tokens"]
    return block.get("cache_read_input_tokens", 0)


def _first(block: Mapping[str, Any], *names: str) -> Any:
    return next((block[name] for name in names if name in block), None)


def _sum(*numbers: Any, sign: int = 1) -> Any:
    """The sum; None if a number is missing, and something that is no quantity if one is none."""
    if any(number is None for number in numbers):
        return None
    if any(type(number) is not int for number in numbers):
        return "not a number"
    return sign * sum(numbers)
