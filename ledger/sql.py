"""Named statements: SQL lives in .sql files, each statement under a line `-- name: the_name`."""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(package: str, filename: str) -> dict[str, str]:
    """The statements of one file, by name. Raises ValueError on a name given twice or text before the first name."""
    text = resources.files(package).joinpath(filename).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    if any(line and not line.startswith("--") for line in parts[0].splitlines()):
        raise ValueError(f"{filename}: text before the first '-- name:'")
    names = parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{filename}: a name is given twice")
    return {name: body.strip() for name, body in zip(names, parts[2::2], strict=True)}
