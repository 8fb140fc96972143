"""What a requirement may say: a name, extras and versions of an index. Pure.

Everything that installers also understand is refused here: options, URLs, paths, version control, aliases, markers.
"""

from __future__ import annotations

import re
from typing import Final

from sandbox.nouns import Language

_PYTHON: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?)"
    r"(?:\[(?P<extras>[A-Za-z0-9._-]{1,32}(?:,[A-Za-z0-9._-]{1,32}){0,7})\])?"
    r"(?P<versions>(?:===?|~=|!=|<=|>=|<|>)[0-9A-Za-z.*+!_-]{1,40}(?:,(?:===?|~=|!=|<=|>=|<|>)[0-9A-Za-z.*+!_-]{1,40}){0,3})?",
    re.ASCII,
)
_NODE: Final = re.compile(
    r"(?P<name>(?:@[a-z0-9][a-z0-9._-]{0,62}/)?[a-z0-9][a-z0-9._-]{0,99})"
    r"(?:@(?P<versions>(?:[~^]|>=|<=|>|<|=)?\d{1,9}(?:\.(?:\d{1,9}|x|\*)){0,2}(?:-[0-9A-Za-z.-]{1,40})?|[a-z][a-z0-9-]{0,30}))?",
    re.ASCII,
)


def normal(language: Language, text: str) -> str:
    """A requirement in its canonical spelling. Raises ValueError with what is wrong."""
    squeezed = re.sub(r" *([,\[\]]|[=~!<>]+) *", r"\1", text.strip(" "))
    found = (_PYTHON if language is Language.PYTHON else _NODE).fullmatch(squeezed)
    if found is None:
        form = "name, name[extra] or name==1.2" if language is Language.PYTHON else "name, @scope/name or name@1.2"
        raise ValueError(f"must be of the form {form}")
    versions = found["versions"] or ""
    if language is Language.NODE:
        return found["name"] + (f"@{versions}" if versions else "")
    name = re.sub(r"[-_.]+", "-", found["name"]).lower()
    extras = f"[{','.join(sorted(found['extras'].lower().split(',')))}]" if found["extras"] else ""
    return name + extras + ",".join(sorted(versions.split(","))) if versions else name + extras


def normal_all(language: Language, texts: tuple[str, ...]) -> tuple[str, ...]:
    """All of them, sorted, each once. Raises ValueError naming the place."""
    found = set()
    for number, text in enumerate(texts):
        try:
            found.add(normal(language, text))
        except ValueError as error:
            raise ValueError(f"packages.packages.{number}|{error}") from None
    return tuple(sorted(found))
