"""Regular expressions may make a character class possessive, never a group.

CPython before 3.11.5 (gh-106052; Debian 12 has 3.11.2) matches a possessive group wrongly: an iteration that fails half way
leaves what it had consumed, so `5;` passed for a chunk size.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

import gateway
import ledger


def expressions() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Every compiled expression that a module of the data plane keeps, as itself or as one of its methods."""
    for package in (gateway, ledger):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(found.name)).items():
                pattern = getattr(value, "__self__", value)
                if isinstance(pattern, re.Pattern):
                    yield f"{found.name}.{name}", pattern


def has_possessive_group(parsed: Any) -> bool:
    for operation, argument in parsed:
        if operation is _constants.POSSESSIVE_REPEAT:
            inside = argument[2]
            if len(inside) != 1 or inside[0][0] not in (_constants.IN, _constants.LITERAL, _constants.ANY):
                return True
        parts = argument if isinstance(argument, (tuple, list)) else [argument]
        for part in parts:
            for each in part if isinstance(part, list) else [part]:
                if isinstance(each, _parser.SubPattern) and has_possessive_group(each):
                    return True
    return False


def test_the_check_finds_one() -> None:
    for wrong in ("(?:ab|c)*+", "x(y(?:a*+;)?+)", "a|(?:b(c+)++)"):
        assert has_possessive_group(_parser.parse(wrong)), wrong
    for right in ("[()*+,]++", "a?+", "(?:[ab]*+;)*"):
        assert not has_possessive_group(_parser.parse(right)), right


def test_no_group_is_possessive() -> None:
    found = dict(expressions())
    assert len(found) > 10
    wrong = [
        name for name, pattern in found.items() if has_possessive_group(_parser.parse(pattern.pattern, pattern.flags))
    ]
    assert wrong == []
