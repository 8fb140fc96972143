"""Changes as a difference that people read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from admin.changes import Action, Change

_SIGNS = {Action.CREATED: "+", Action.UPDATED: "~", Action.DELETED: "-"}


def show(changes: Iterable[Change], project_names: Mapping[str, str] | None = None) -> str:
    """One line per object, one more per field that an update changed, and a sum; ends without a newline.

    `project_names` maps project ids to names; projects that were created are named by their own change.
    """
    changes = list(changes)
    names = {**(project_names or {}), **{c.object_id: c.name for c in changes if c.noun == "project"}}
    lines: list[str] = []
    heading = None
    counted: Counter[Action] = Counter()
    for change in changes:
        counted[change.action] += 1
        if change.project_id != heading:
            heading = change.project_id
            lines.append(f"project {names.get(heading, heading)}")
        mode = f" ({change.mode})" if change.mode else ""
        lines.append(f"  {_SIGNS.get(change.action, '*')} {change.noun} {change.name}{mode}")
        if change.action is Action.UPDATED:
            fields = change.fields
            lines += [f"      {name}: {_text(before)} -> {_text(after)}" for name, (before, after) in fields.items()]
            if not fields:
                lines.append("      declared now; first seen at a gateway")
    if not lines:
        return "Nothing changes: it is so already."
    return "\n".join([*lines, ", ".join(f"{counted[a]} {a}" for a in Action if counted[a]) + "."])


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
