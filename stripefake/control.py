"""`/_fake/…`: steering the fake and looking into it, without a key. docs/stripe-fake.md describes it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict, fields
from typing import Any, Final

import orjson
from aiohttp import web

from stripefake import checkout, meters, subscriptions
from stripefake.call import Call
from stripefake.errors import Refusal
from stripefake.faults import InvalidFault
from stripefake.webhooks import Delivery
from stripefake.world import PLATFORM, Half, Options, World

_OPTIONS: Final = {field.name: field.type for field in fields(Options)}


class Control:
    """The handlers, over one world."""

    def __init__(self, world: World, delivery: Delivery) -> None:
        self._world = world
        self._delivery = delivery

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_fake/state", self.state),
            web.get("/_fake/requests", self.requests),
            web.post("/_fake/reset", self.reset),
            web.post("/_fake/clock", self.clock),
            web.post("/_fake/accounts", self.accounts),
            web.get("/_fake/options", self.options),
            web.post("/_fake/options", self.options),
            web.get("/_fake/faults", self.faults),
            web.post("/_fake/faults", self.faults),
            web.delete("/_fake/faults", self.faults),
            web.post("/_fake/checkout/{id}/complete", self.complete),
            web.post("/_fake/meter-errors", self.meter_errors),
        ]

    async def state(self, _: web.Request) -> web.Response:
        """The clock, and per half how many objects there are and which units count."""
        world = self._world
        halves = [
            {
                "account": half.account,
                "livemode": half.livemode,
                "objects": {kind: len(things) for kind, things in half.objects.items()},
                "units": meters.units(world, half),
                "meter_events": len(half.meter_events),
                "meter_errors": dict(Counter(e.error for e in half.meter_events if e.error)),
            }
            for half in world.halves.values()
        ]
        return _json(
            {
                "now": world.clock.now,
                "accounts": sorted(world.accounts),
                "halves": halves,
                "most_at_once": world.most_at_once,
                "webhooks": {
                    "waiting": len(world.outbox),
                    "delivered": self._delivery.delivered,
                    "given_up": self._delivery.given_up,
                },
            }
        )

    async def requests(self, _: web.Request) -> web.Response:
        """The last requests, oldest first."""
        return _json([asdict(line) for line in self._world.log])

    async def reset(self, _: web.Request) -> web.Response:
        """Forget everything, also the clock, the faults and the options."""
        self._world.reset()
        return _json({})

    async def clock(self, request: web.Request) -> web.Response:
        """{"now": unix seconds, "frozen"?: bool} or {"advance_s": seconds}."""
        given = await _body(request, {"now", "frozen", "advance_s"})
        clock = self._world.clock
        if "now" in given:
            clock.set(float(given["now"]), is_frozen=bool(given.get("frozen", False)))
        if "advance_s" in given:
            clock.advance(float(given["advance_s"]))
        for half in self._world.halves.values():
            subscriptions.roll_on(self._world, half)
        return _json({"now": clock.now})

    async def accounts(self, request: web.Request) -> web.Response:
        """{"id": "acct_…"}: an account that is connected to the platform."""
        self._world.accounts.add(str((await _body(request, {"id"}))["id"]))
        return _json({"accounts": sorted(self._world.accounts)})

    async def options(self, request: web.Request) -> web.Response:
        """Those of world.Options."""
        if request.method == "POST":
            for name, value in (await _body(request, set(_OPTIONS))).items():
                setattr(self._world.options, name, value)
            self._world.happened.set()
        return _json(asdict(self._world.options))

    async def faults(self, request: web.Request) -> web.Response:
        """POST a rule or a list of rules (see faults), GET those that are left, DELETE them."""
        if request.method == "POST":
            given = orjson.loads(await request.read())
            for rule in given if isinstance(given, list) else [given]:
                try:
                    self._world.faults.add(rule)
                except InvalidFault as error:
                    raise web.HTTPBadRequest(text=f"{error}\n") from None
        elif request.method == "DELETE":
            self._world.faults.clear()
        return _json(self._world.faults.shown())

    async def complete(self, request: web.Request) -> web.Response:
        """Pay an open checkout session."""
        session_id = request.match_info["id"]
        half = self._half_of("checkout.session", session_id)
        try:
            return _json(checkout.complete(Call(self._world, half, (), {}), session_id))
        except Refusal as refusal:
            return _json(refusal.body, refusal.status)

    async def meter_errors(self, _: web.Request) -> web.Response:
        """Report what turned out not to count, now instead of in a while."""
        await asyncio.sleep(0)
        return _json(
            [notice for half in self._world.halves.values() for notice in meters.report_errors(self._world, half)]
        )

    def _half_of(self, kind: str, object_id: str) -> Half:
        for half in self._world.halves.values():
            if object_id in half.of(kind):
                return half
        return self._world.half(PLATFORM, livemode=False)


async def _body(request: web.Request, known: set[str]) -> dict[str, Any]:
    try:
        given = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict) or given.keys() - known:
        raise web.HTTPBadRequest(text=f"expected a JSON object of {', '.join(sorted(known))}\n")
    return given


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type="application/json")
