"""What must agree between the parts of a declaration: names that are unique, and names that are known.

A *fault* is a place (relative to the field that is checked) and a sentence saying what is wrong there. Validators
collect all faults of a field and raise them together; pydantic puts the place of the field itself in front of each.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Place = tuple[str | int, ...]
Fault = tuple[Place, str]

_MOST_SHOWN = 20


def twice(field: str, entries: Iterable[tuple[int, str]]) -> list[Fault]:
    """A fault at (index, field) for every entry (index, description) whose description was there before."""
    seen: set[str] = set()
    faults: list[Fault] = []
    for index, described in entries:
        if described in seen:
            faults.append(((index, field), f"{described} is declared more than once"))
        seen.add(described)
    return faults


def unknown(noun: str, field: str, entries: Iterable[tuple[int, str]], known: set[str]) -> list[Fault]:
    """A fault at (index, field) for every entry (index, name) that is not among the known names."""
    shown = ", ".join(sorted(known)[:_MOST_SHOWN]) + (", …" if len(known) > _MOST_SHOWN else "")
    return [
        ((index, field), f"no {noun} is called {name!r}; declared are: {shown or 'none'}")
        for index, name in entries
        if name not in known
    ]


def refuse(faults: list[Fault]) -> None:
    """Raise all faults as one ValidationError, the first of each place; do nothing if there are none."""
    first: dict[Place, str] = {}
    for place, text in faults:
        first.setdefault(place, text)
    if first:
        raise ValidationError.from_exception_data(
            "declaration",
            [
                InitErrorDetails(type=PydanticCustomError("reference", "{text}", {"text": text}), loc=place, input=None)
                for place, text in first.items()
            ],
        )
