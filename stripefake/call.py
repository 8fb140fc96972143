"""What an operation works with, and what most of them share: storing an object, changing one, listing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stripefake.errors import Refusal, missing
from stripefake.world import Half, Object, World

MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Call:
    """One request that is allowed and well-formed. `ids` are those in its path, in order."""

    world: World
    half: Half
    ids: tuple[str, ...]
    params: Mapping[str, Any]

    @property
    def now(self) -> int:
        return self.world.clock.now

    def need(self, name: str) -> Any:
        """A parameter that the types leave out and this fake does not. Raises Refusal."""
        if not self.params.get(name):
            raise Refusal(f"Missing required param: {name}.", param=name, code="parameter_missing")
        return self.params[name]

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the parameters that were given; '' unsets."""
        return {name: (self.params[name] or None) for name in names if name in self.params}


Run = Callable[[Call], Awaitable[Object]]


@dataclass(frozen=True, slots=True)
class Operation:
    """`path` has {id} where an id goes; `params` names the type of the library, None: takes nothing.

    `further` parameters are those of links in answers, which the library has no type for.
    """

    method: str
    path: str
    params: str | None
    run: Run
    further: frozenset[str] = frozenset()


def stored(call: Call, kind: str, prefix: str, fields: Mapping[str, Any], *, event: str | None = None) -> Object:
    """A new object, kept; with an event if one is named."""
    thing: Object = {
        "id": call.world.new_id(prefix),
        "object": kind,
        "created": call.now,
        "livemode": call.half.livemode,
        "metadata": dict(call.params.get("metadata") or {}),
        **fields,
    }
    call.half.of(kind)[thing["id"]] = thing
    if event is not None:
        call.world.emit(call.half, event, thing)
    return thing


def changed(call: Call, thing: Object, fields: Mapping[str, Any], *, event: str | None = None) -> Object:
    """Change some fields, and merge metadata as Stripe does ('' removes a key)."""
    metadata = call.params.get("metadata")
    update = dict(fields)
    if metadata == "":
        update["metadata"] = {}
    elif metadata:
        update["metadata"] = {k: v for k, v in {**thing["metadata"], **metadata}.items() if v != ""}
    before = {name: thing.get(name) for name, value in update.items() if thing.get(name) != value}
    thing.update(update)
    if event is not None and before:
        call.world.emit(call.half, event, thing, before)
    return thing


def listed(call: Call, things: Iterable[Object], url: str) -> Object:
    """A page of them, newest first."""
    found = list(reversed(list(things)))
    limit = call.params.get("limit", 10)
    if not 1 <= limit <= MOST:
        raise Refusal(f"Invalid limit: must be from 1 to {MOST}", param="limit", code="parameter_invalid_integer")
    ids = [thing["id"] for thing in found]
    if "starting_after" in call.params:
        found = found[_index(ids, call.params["starting_after"], "starting_after") + 1 :]
    elif "ending_before" in call.params:
        end = _index(ids, call.params["ending_before"], "ending_before")
        start = max(0, end - limit)
        return {"object": "list", "url": url, "has_more": start > 0, "data": found[start:end]}
    return {"object": "list", "url": url, "has_more": len(found) > limit, "data": found[:limit]}


def _index(ids: list[str], wanted: str, param: str) -> int:
    if wanted not in ids:
        raise missing("object", wanted, param)
    return ids.index(wanted)


def plain(kind: str, url: str, *filters: str) -> Run:
    """The list of a kind, filtered by equality."""

    async def run(call: Call) -> Object:
        wanted = {name: call.params[name] for name in filters if name in call.params}
        things = (
            thing
            for thing in call.half.of(kind).values()
            if not thing.get("deleted") and all(thing.get(name) == value for name, value in wanted.items())
        )
        return listed(call, things, url)

    return run


def one(kind: str) -> Run:
    """One object by its id."""

    async def run(call: Call) -> Object:
        return call.half.get(kind, call.ids[0])

    return run
