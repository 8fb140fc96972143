"""Lists in pages: `limit` and `cursor` in, `{"data": […], "next_cursor": …}` out.

A page goes down from an id, so what is made or deleted between two pages never repeats or hides anything else. The
cursor is opaque to clients; it holds nothing but that id.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from admin.api.call import Reply, invalid

QUERY: Final = frozenset(("limit", "cursor"))
DEFAULT_LIMIT: Final = 20
MOST: Final = 100

_LIMIT = re.compile(r"[1-9]\d{0,2}", re.ASCII)
_ID = re.compile(r"[a-z]+_[0-9a-z]+", re.ASCII)


class HasId(Protocol):
    """What can be listed."""

    @property
    def id(self) -> str:
        """Sorts the list."""


T = TypeVar("T", bound=HasId)
A = TypeVar("A")


async def paged(
    query: Mapping[str, str],
    fetch: Callable[[str | None, int | None], Awaitable[list[T]]],
    represent: Callable[[T], Any],
) -> Reply:
    """One page of what `fetch(before, limit)` finds. Raises Denied for a limit or cursor that is none."""
    limit = limit_of(query.get("limit"))
    found = await fetch(before_of(query.get("cursor")), limit + 1)  # one more tells whether there is a next page
    shown = found[:limit]
    cursor = cursor_of(shown[-1].id) if len(found) > limit else None
    return Reply({"data": [represent(item) for item in shown], "next_cursor": cursor})


def part(
    query: Mapping[str, str], items: Sequence[A], id_of: Callable[[A], str], represent: Callable[[A], Any]
) -> Reply:
    """One page of a short list that is there as a whole, in its own order. Raises Denied as `paged` does.

    What the cursor names may be gone meanwhile: the list then begins anew.
    """
    limit, before = limit_of(query.get("limit")), before_of(query.get("cursor"))
    start = next((place + 1 for place, item in enumerate(items) if id_of(item) == before), 0)
    shown = items[start : start + limit]
    cursor = cursor_of(id_of(shown[-1])) if len(items) > start + limit else None
    return Reply({"data": [represent(item) for item in shown], "next_cursor": cursor})


def cursor_of(item_id: str) -> str:
    """The cursor of what comes after an item."""
    return base64.urlsafe_b64encode(item_id.encode()).decode()


def cursor_after(number: int) -> str:
    """The cursor of a list that has no ids, such as a breakdown: so many were shown before."""
    return cursor_of(f"after_{number}")


def offset_of(cursor: str | None) -> int:
    """How many were shown before. Raises Denied."""
    number = (before_of(cursor) or "after_0").removeprefix("after_")
    if not number.isdecimal() or len(number) > 9:
        raise invalid("cursor", "expected the next_cursor of the page before")
    return int(number)


def limit_of(given: str | None) -> int:
    """The number of items a page holds. Raises Denied."""
    if given is None:
        return DEFAULT_LIMIT
    if not _LIMIT.fullmatch(given) or int(given) > MOST:
        raise invalid("limit", f"expected a number from 1 to {MOST}, got {given!r:.40}")
    return int(given)


def before_of(cursor: str | None) -> str | None:
    """The id that a cursor holds. Raises Denied."""
    if cursor is None:
        return None
    try:
        before = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
    except ValueError:
        before = ""
    if not _ID.fullmatch(before):
        raise invalid("cursor", "expected the next_cursor of the page before")
    return before
