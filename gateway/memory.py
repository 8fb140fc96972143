"""What a worker remembers of requests, for all of its connections: what was read once is not read again.

- *Shared blocks*: field sections less the API key in them. Programs that use an API send the same fields but for their
  key, so one block serves any number of keys; who it is, is looked up for each (gateway.callers.recall). This is what
  keeps a request's cost the same for ten keys and for a hundred thousand.
- *Known heads*: whole heads of callers whose credential is not a key in a field: tokens, end users, open routes.
- *Strangers*: whole heads of requests that were answered with 401, kept apart so that a flood of them cannot push the
  others out.

Everything depends on its key alone: the bytes, the client's address, and the snapshot's generation that is kept with it.
Bounds: `most` known heads and as many blocks, 4,096 strangers, 64 routes in a block, 256 request lines in each; what is
full is emptied at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.http1.fields import Fields
from ledger.keys import KEY_LENGTH

if TYPE_CHECKING:
    from gateway.context import Refusal
    from gateway.exchange import Exchange
    from gateway.http1.request import RequestLine
    from gateway.limits.caps import Hold
    from gateway.limits.plan import Plan
    from gateway.proxy.pool import Pool
    from gateway.proxy.shape import Shape
    from gateway.store.nouns import Route

_MAX_HEAD_BYTES: Final = 2_048
_MAX_STRANGERS: Final = 4_096
_MAX_ROUTES: Final = 64
_MAX_LINES: Final = 256


@dataclass(slots=True, eq=False)
class Caller:
    """Who makes a request on a route, and what follows from it, for as long as nothing of it changes.

    `tail` is the upstream request's field lines after Host, `heads` the whole head up to there for each origin it has been
    sent to; `user_line` (who it is for) and X-Request-Id follow. `good_until_ms` is Unix milliseconds. `shape` is what is
    done to the answers, None where nothing is. `carried_by` is the field that carried the credential; `is_shareable` says
    that nothing but that key tells this caller from others who send the same fields. `holds` is what each request takes of
    the caps on what is under way at once.
    """

    line: RequestLine
    fields: Fields
    peer_ip: str
    route: Route
    generation: int
    good_until_ms: float
    plan: Plan
    tail: bytes
    is_websocket: bool = False
    shape: Shape | None = None
    heads: dict[Pool, bytes] = field(default_factory=dict)
    user_line: bytes = b""
    carried_by: bytes = b""
    is_shareable: bool = False
    holds: tuple[Hold, ...] = ()

    @property
    def own_lines(self) -> bytes:
        """What the gateway's own answers to this caller carry."""
        return b"" if self.shape is None else self.shape.own


@dataclass(slots=True, eq=False)
class TurnedAway:
    """A request without a valid credential, remembered for a second: who repeats it gets the same answer for less."""

    line: RequestLine
    fields: Fields
    generation: int
    until_ms: int
    refusal: Refusal

    def is_for(self, ex: Exchange, generation: int) -> bool:
        """True if `ex` is that request again, and nothing has changed since."""
        return (
            self.line is ex.line
            and self.fields is ex.fields
            and self.generation == generation
            and self.until_ms > ex.at_ms
        )


@dataclass(slots=True, eq=False)
class KnownHead:
    """A request head, read, and who sent it last: a caller that was let in, or one that was not."""

    start_line: bytes
    line: RequestLine
    fields: Fields
    keeps_alive: bool
    caller: Caller | None
    turned_away: TurnedAway | None = None


@dataclass(slots=True, eq=False)
class SharedRoute:
    """What a shared block means on one route, with one method; all but what follows from the key."""

    generation: int
    tail: bytes
    is_websocket: bool
    shape: Shape | None
    heads: dict[RequestLine, dict[Pool, bytes]] = field(default_factory=dict)
    """Upstream heads by request line and pool, less what follows from the key."""

    def heads_of(self, line: RequestLine) -> dict[Pool, bytes]:
        heads = self.heads.get(line)
        if heads is None:
            if len(self.heads) >= _MAX_LINES:
                self.heads.clear()
            heads = self.heads[line] = {}
        return heads


@dataclass(slots=True, eq=False)
class SharedBlock:
    """A field section without its key. `fields` lack the field that carried it; `routes` are by route and method."""

    fields: Fields
    routes: dict[tuple[Route, bytes], SharedRoute] = field(default_factory=dict)


class Memory:
    """See the module; one per worker."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.heads: dict[bytes, KnownHead] = {}
        self.strangers: dict[bytes, KnownHead] = {}
        self.blocks: dict[bytes, SharedBlock] = {}

    def known(self, head: bytes) -> KnownHead | None:
        """What is known of a whole head."""
        return self.heads.get(head) or self.strangers.get(head)

    def keep(self, head: bytes, known: KnownHead) -> None:
        """Remember a whole head."""
        if len(head) > _MAX_HEAD_BYTES:
            return
        heads, most = (self.strangers, _MAX_STRANGERS) if known.caller is None else (self.heads, self._most)
        if len(heads) >= most:
            heads.clear()
        heads[head] = known

    def share(self, block_key: bytes, caller: Caller) -> None:
        """Remember the field section of a caller for whoever sends the same with another key."""
        if len(block_key) > _MAX_HEAD_BYTES:
            return
        block = self.blocks.get(block_key)
        if block is None:
            if len(self.blocks) >= self._most:
                self.blocks.clear()
            block = self.blocks[block_key] = SharedBlock(_without(caller.fields, caller.carried_by))
        if len(block.routes) >= _MAX_ROUTES:
            block.routes.clear()
        block.routes[caller.route, caller.line.method] = SharedRoute(
            caller.generation, caller.tail, caller.is_websocket, caller.shape
        )


def key_in(block: bytes) -> int:
    """Where something that looks like an API key ends a line of a field section; -1 if nothing does."""
    at = block.find(b"k_live_")
    if at < 0:
        at = block.find(b"k_test_")
    at -= 1
    return at if at > 0 and block[at + KEY_LENGTH : at + KEY_LENGTH + 2] == b"\r\n" else -1


def _without(fields: Fields, name: bytes) -> Fields:
    """The same fields less one."""
    rest = Fields()
    rest.raw = b""
    rest.items = [item for item in fields.items if item[0] != name]
    rest.index = {each: value for each, value in fields.index.items() if each != name}
    rest.repeated = fields.repeated
    rest.content_length, rest.chunked = fields.content_length, fields.chunked
    rest.connection, rest.host = fields.connection, fields.host
    return rest
