"""What is wrong with a declaration, each fault with its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MOST_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. Line and column count from 1, None where there is no text; `path` names the field."""

    line: int | None
    column: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = "" if self.line is None else f"{self.line}:{self.column}: "
        return f"{place}{self.path + ': ' if self.path else ''}{self.message}"


class DeclarationError(Exception):
    """A declaration is not valid. `faults` has all that was found, in the order of the file; str() is for people."""

    def __init__(self, filename: str, faults: list[Fault]) -> None:
        self.filename = filename
        self.faults = sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0))
        lines = [f"{filename}:{fault}" for fault in self.faults[:_MOST_SHOWN]]
        if len(self.faults) > _MOST_SHOWN:
            lines.append(f"{filename}: and {len(self.faults) - _MOST_SHOWN} more")
        super().__init__("\n".join(lines))


def path_text(loc: tuple[str | int, ...]) -> str:
    """A field's path as people write it: projects[0].tiers[1].name."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
