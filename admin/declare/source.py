"""YAML as a tree that remembers where everything was written.

The tree is built from the parser's events, so nothing in a file is ever executed or guessed at: a plain scalar is null,
true or false, a whole or decimal number, or else text (`no`, `12:30` and `2027-01-31` are text, unlike in YAML 1.1).
Refused, with the place: a mapping key given twice, tags, merge keys, a second document, unknown aliases.
Bounds: 4 MiB, 32 levels, 200,000 values after aliases are filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import yaml

from admin.declare.faults import DeclarationError, Fault, path_text

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 200_000

_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE: Final = re.compile(r"[-+]?\d{1,30}", re.ASCII)
_DECIMAL: Final = re.compile(r"[-+]?\d{1,30}\.\d{1,30}", re.ASCII)

Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place (both from 1). `keys` has the place of each key, if the value is a mapping."""

    line: int
    column: int
    value: Any
    keys: Mapping[str, tuple[int, int]]

    def find(self, loc: Loc) -> tuple[Loc, tuple[int, int]]:
        """As much of `loc` as is written in the tree, and the place of that: a field's name, or an item's beginning."""
        node, place = self, (self.line, self.column)
        for found, part in enumerate(loc):
            if isinstance(node.value, dict) and part in node.value:
                place = node.keys[str(part)]
                node = node.value[part]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                place = node.line, node.column
            else:
                return loc[:found], place
        return loc, place


@dataclass(frozen=True, slots=True)
class Source:
    """A document: its tree, and its value without places (dicts, lists, text, int, Decimal, bool, None)."""

    tree: Node
    value: Any


def read(text: str | bytes, filename: str) -> Source:
    """The one document of a file. Raises DeclarationError."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        raise DeclarationError(filename, [Fault(None, None, "", f"longer than {MAX_BYTES} bytes")])
    decoded = _decode(data, filename)
    reader = _Reader(decoded)
    try:
        tree = reader.document()
        source = Source(tree, _Plain().of(tree, 0))
    except _Broken as broken:
        reader.faults.append(Fault(*broken.place, "", broken.message))
    except yaml.MarkedYAMLError as error:
        reader.faults.append(_syntax_fault(decoded, error))
    except yaml.reader.ReaderError as error:
        place = _place_of(decoded, error.position)
        reader.faults.append(Fault(*place, "", f"a control character ({error.character!r:.20}) is not allowed"))
    if reader.faults:
        raise DeclarationError(filename, reader.faults)
    return source


class _Broken(Exception):
    """The rest of the file cannot be understood."""

    def __init__(self, place: tuple[int, int], message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class _Reader:
    """Builds the tree of one document; collects the faults that leave the rest readable."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_PARSER))
        self._anchors: dict[str, Node] = {}
        self.faults: list[Fault] = []

    def document(self) -> Node:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise _Broken((1, 1), "the file is empty; expected a mapping with `projects`")
        tree = self._node(next(self._events), ())
        next(self._events)  # the document's end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _Broken(_place(after), "a second document begins here; expected one")
        return tree

    def _node(self, event: Any, loc: Loc) -> Node:
        place = _place(event)
        if len(loc) > MAX_DEPTH:
            raise _Broken(place, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Broken(place, f"no value is marked &{event.anchor} before this")
            return self._anchors[event.anchor]
        if event.tag is not None:
            self.faults.append(Fault(*place, path_text(loc), f"tags such as {event.tag!r:.60} are not allowed"))
        if isinstance(event, yaml.ScalarEvent):
            node = Node(*place, _scalar(event.value) if event.implicit[0] else event.value, {})
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, (*loc, len(items))))
            node = Node(*place, items, {})
        else:
            node = self._mapping(place, loc)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, place: tuple[int, int], loc: Loc) -> Node:
        values: dict[str, Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            key_place = _place(key)
            if not isinstance(key, yaml.ScalarEvent):
                raise _Broken(key_place, "expected a field's name before the ':'")
            name = str(key.value)
            path = path_text((*loc, name))
            if name == "<<" and key.implicit[0]:
                self.faults.append(Fault(*key_place, path, "merge keys (<<) are not allowed; write the fields out"))
            if name in keys:
                self.faults.append(Fault(*key_place, path, f"is given twice; the first is on line {keys[name][0]}"))
            keys.setdefault(name, key_place)
            values[name] = self._node(next(self._events), (*loc, name))
        return Node(*place, values, keys)


class _Plain:
    """Turns a tree into plain values, counting them: an alias costs as much as what it stands for."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def of(self, node: Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise _Broken((node.line, node.column), "aliases make this file too large")
        if isinstance(node.value, dict):
            return {name: self.of(child, depth + 1) for name, child in node.value.items()}
        if isinstance(node.value, list):
            return [self.of(child, depth + 1) for child in node.value]
        return node.value


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return Decimal(text) if _DECIMAL.fullmatch(text) else text


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _decode(text: bytes, filename: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        column = error.start - text.rfind(b"\n", 0, error.start)
        message = f"not UTF-8: byte 0x{text[error.start]:02x} cannot stand here; save the file as UTF-8"
        raise DeclarationError(filename, [Fault(line, column, "", message)]) from None


def _place_of(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _syntax_fault(text: str, error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Fault(None, None, "", f"not YAML: {error.problem}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Fault(mark.line + 1, line.index("\t") + 1, "", "a tab in the indentation; indent with spaces")
    context = ""
    if error.context and error.context_mark is not None:
        context = f" ({error.context} from line {error.context_mark.line + 1})"
    return Fault(mark.line + 1, mark.column + 1, "", f"not YAML: {error.problem}{context}")
