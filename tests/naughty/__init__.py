"""Hostile text for every field (strings.txt), by class, and how to see that a page shows it and runs none of it.

`NAUGHTY` is all of it in order; `long()` makes what would not fit the file. Lone surrogates are in it: they are what a
browser cannot send and a program can.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final


def _read() -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("strings.txt").read_text("utf-8").splitlines()[1:]:
        if line.startswith("# "):
            found = classes.setdefault(line[2:], [])
        elif line:
            found.append(json.loads(line))
    return classes


def long() -> list[str]:
    """What is too long for most fields, by characters and by bytes."""
    return ["x" * n for n in (201, 255, 256, 1001, 10_000)] + ["é" * 200, "\U0001f600" * 200, "<" * 300, " " * 500]


CLASSES: Final = {**_read(), "long": long()}
NAUGHTY: Final = [text for texts in CLASSES.values() for text in texts]
ENCODABLE: Final = [text for text in NAUGHTY if not any("\ud800" <= character <= "\udfff" for character in text)]
"""What UTF-8 can carry."""
_TAGS: Final = frozenset(
    re.findall(
        r"\w+",
        "html head meta title link script body a svg path circle rect line div span header main nav section form label"
        " input select option button textarea fieldset legend h1 h2 h3 p ul li ol dl dt dd table thead tbody tr th td"
        " details summary figure figcaption code pre strong em time progress article br",
    )
)


class Page(HTMLParser):
    """A page as a browser reads it: its text, the values of its attributes, and what should not be there."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.values: list[str] = []
        self.faults: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            self.values.append(value or "")
            if name.startswith("on") or name in ("style", "srcdoc", "formaction"):
                self.faults.append(f"{tag} {name}={value!r}")
            if name in ("href", "src", "action", "hx-get", "sse-connect") and not re.match(
                r"(/(?!/)|#|\?|$)", value or ""
            ):
                self.faults.append(f"{tag} {name}={value!r}")
        if tag == "script" and not dict(attrs).get("src"):
            self.faults.append("a script inside the page")

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"<!--{data}-->")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def shows(self, text: str) -> bool:
        """True if the text is on the page, as text or in a field."""
        return any(text in found for found in self.texts) or text in self.values
