"""Pydantic's errors in words of ours: which field, what is wrong, what would be right.

Messages never repeat a value longer than a line, and none that could hold a credential (ledger.specs sees to that).
"""

from __future__ import annotations

import difflib
import types
import typing
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from admin.declare.faults import Fault, path_text
from admin.declare.source import Loc, Node

_WORDS: Final = {
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a smaller number",
    "int_from_float": "expected a whole number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "decimal_type": "expected a number such as 0.002",
    "decimal_parsing": "expected a number such as 0.002",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "ip_v4_network": "expected a network such as 10.0.0.0/8",
    "ip_v6_network": "expected a network such as 2001:db8::/32",
    "datetime_parsing": "expected a moment such as 2027-01-31T00:00:00Z",
    "datetime_from_date_parsing": "expected a moment such as 2027-01-31T00:00:00Z",
    "datetime_type": "expected a moment such as 2027-01-31T00:00:00Z",
    "timezone_aware": "expected a time zone, such as in 2027-01-31T00:00:00Z",
}
_NOT_WRITTEN: Final = ("[key]", "[fixed]", "[measured]")
"""Parts of a place that are pydantic's or ours: a mapping's key, and the kinds of a meter."""
_TOO_FEW: Final = "expected at least"
_LONGEST_SHOWN: Final = 60


def explain(error: ValidationError, model: type[BaseModel], value: Any, tree: Node | None = None) -> list[Fault]:
    """All that is wrong with `value`, one fault per field; with the tree it came from, each has its place in the text."""
    messages: dict[Loc, list[tuple[str, str]]] = {}
    for detail in error.errors(include_url=False):
        loc = tuple(part for part in detail["loc"] if part not in _NOT_WRITTEN)
        message = _message(detail, loc, model)
        if detail["type"] != "missing":
            loc = _written(value, loc)
        said = messages.setdefault(loc, [])
        if message not in said:
            said.append(message)
    # A list whose items are all wrong is also "too short" to pydantic: the items say it better.
    for loc in [loc for loc, said in messages.items() if said[0][0].startswith(_TOO_FEW)]:
        if any(other[: len(loc)] == loc and other != loc for other in messages):
            del messages[loc]
    return [_fault(loc, _joined(said), tree) for loc, said in messages.items()]


def _written(value: Any, loc: Loc) -> Loc:
    """As much of `loc` as there is in the value; what follows is pydantic's own, such as the members of a union."""
    for found, part in enumerate(loc):
        is_index = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if not is_index and not (isinstance(value, dict) and part in value):
            return loc[:found]
        value = value[part]
    return loc


def _joined(said: list[tuple[str, str]]) -> str:
    """The ways in which a value fits no member of a union, as one sentence."""
    first, *others = [wanted for wanted, _ in said]
    return "".join([first, *(f", or {wanted.removeprefix('expected ')}" for wanted in others), said[0][1]])


def _fault(loc: Loc, message: str, tree: Node | None) -> Fault:
    if tree is None:
        return Fault(None, None, path_text(loc), message)
    _, (line, column) = tree.find(loc)
    return Fault(line, column, path_text(loc), message)


def _message(detail: Any, loc: Loc, model: type[BaseModel]) -> tuple[str, str]:
    """What would be right, and what there is instead."""
    kind, given = detail["type"], detail["input"]
    if kind == "missing":
        return "is missing", ""
    if kind == "extra_forbidden":
        return _unknown_field(str(loc[-1]), _model_at(model, loc[:-1])), ""
    if kind in ("model_type", "model_attributes_type"):
        return f"expected a mapping of fields{_fields_of(_model_at(model, loc))}", _got(given)
    if kind in ("value_error", "reference"):
        return str(detail["msg"]).removeprefix("Value error, "), ""
    if kind in ("literal_error", "enum"):
        return f"expected {detail['ctx']['expected']}", _got(given)
    if kind == "too_short":
        return f"{_TOO_FEW} {detail['ctx']['min_length']}", f", got {detail['ctx']['actual_length']}"
    words = _WORDS.get(kind) or str(detail["msg"]).replace("Input should be", "expected a value")
    hint = "; put it in quotes" if kind == "string_type" and isinstance(given, bool | int) else ""
    return words, _got(given) + hint


def _got(given: Any) -> str:
    if given is None:
        return ", got nothing"
    if isinstance(given, bool):
        return f", got {str(given).lower()}"
    if isinstance(given, dict | list | tuple):
        return f", got a {'mapping' if isinstance(given, dict) else 'list'}"
    shown = repr(given) if isinstance(given, str) else str(given)
    return f", got {shown}" if len(shown) <= _LONGEST_SHOWN else ""


def _unknown_field(name: str, model: type[BaseModel] | None) -> str:
    known = [] if model is None else list(model.model_fields)
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown field{f'; did you mean {close[0]!r}?' if close else _fields_of(model)}"


def _fields_of(model: type[BaseModel] | None) -> str:
    return "" if model is None else f" (known: {', '.join(model.model_fields)})"


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The model that `loc` leads to from `model`, or None if it leads to something else."""
    annotation: Any = model
    for part in loc:
        inside = _parts_of(annotation)
        if isinstance(part, int):
            annotation = next((typing.get_args(a)[0] for a in inside if typing.get_origin(a) is tuple), None)
        else:
            models = (a for a in inside if isinstance(a, type) and issubclass(a, BaseModel))
            field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
            mapping = next((typing.get_args(a)[1] for a in inside if typing.get_origin(a) is dict), None)
            annotation = mapping if field is None else field.annotation
    return next((a for a in _parts_of(annotation) if isinstance(a, type) and issubclass(a, BaseModel)), None)


def _parts_of(annotation: Any) -> list[Any]:
    """An annotation without Annotated, and the members of a union instead of the union."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _parts_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for member in typing.get_args(annotation) for part in _parts_of(member)]
    return [annotation]
