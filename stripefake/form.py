"""Stripe's form encoding: `a[b][0][c]=1` as nested dicts. Pure. Lists stay dicts of their indexes until a type says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from stripefake.errors import Refusal

_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART: Final = re.compile(r"\[([^\[\]]*)\]")


def nested(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Pairs of a query or a form body as one tree of strings. Raises Refusal for names that are none."""
    tree: dict[str, Any] = {}
    for name, value in pairs:
        match = _NAME.fullmatch(name)
        if match is None:
            raise Refusal(f"Invalid parameter name: {name}", param=name, code="parameter_unknown")
        parts = [match[1], *_PART.findall(match[2])]
        node = tree
        for part in parts[:-1]:
            child = node.setdefault(part or str(len(node)), {})
            if not isinstance(child, dict):
                raise Refusal(f"Invalid object: {name}", param=name, code="parameter_invalid")
            node = child
        last = parts[-1] or str(len(node))
        if last in node:
            raise Refusal(f"Parameter given twice: {name}", param=name, code="parameter_invalid")
        node[last] = value
    return tree
