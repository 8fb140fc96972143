"""Lists on pages: newest first, `?before=` an id leads to what is older. As in the API, nothing repeats or hides."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from admin.api.pages import HasId
from admin.web.page import View

SHOWN: Final = 25
_ID = re.compile(r"[a-z]+_[0-9a-z]{1,64}", re.ASCII)

T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, slots=True)
class Shown(Generic[T]):
    """One page of a list. `older` is the query that leads on, None at the end; `is_first` without one before it."""

    items: list[T]
    older: str | None
    is_first: bool


async def shown(view: View, fetch: Callable[[str | None, int | None], Awaitable[list[T]]], **query: Any) -> Shown[T]:
    """The page that the request asks for. What is no id leads to the first page."""
    before = view.request.query.get("before")
    if before is not None and not _ID.fullmatch(before):
        before = None
    found = await fetch(before, SHOWN + 1)
    items = found[:SHOWN]
    more = "".join(f"&{name}={value}" for name, value in query.items() if value)
    older = f"?before={items[-1].id}{more}" if len(found) > SHOWN else None
    return Shown(items, older, before is None)
