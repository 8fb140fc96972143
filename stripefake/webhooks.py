"""Events on their way to webhook endpoints: signed, retried, and if wanted shuffled, twice and late.

Delivery goes on in the background, one after the other. An endpoint that does not answer 2xx is tried again, up to
TRIES times, with a pause; then the event is given up, as Stripe does after days.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Final

import aiohttp
import orjson
from stripe import WebhookSignature

from stripefake.world import PLATFORM, Half, Object, World

TRIES: Final = 8
_PAUSE_S: Final = 0.05
_TIMEOUT_S: Final = 10.0

log = logging.getLogger(__name__)


class Delivery:
    """The one task that delivers. `delivered` counts answers of 2xx, `given_up` what never got one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = random.Random(0)  # noqa: S311 - repeatable, guards nothing
        self.delivered = 0
        self.given_up = 0

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
            while True:
                await self._world.happened.wait()
                self._world.happened.clear()
                while self._world.options.paused:
                    await asyncio.sleep(_PAUSE_S)
                await asyncio.sleep(self._world.options.delay_s)
                for half, event in self._batch():
                    for endpoint in self._endpoints(half, event):
                        await self._deliver(session, endpoint, event)

    def _batch(self) -> list[tuple[Half, Object]]:
        options = self._world.options
        batch = list(self._world.outbox)
        self._world.outbox.clear()
        batch += [item for item in batch if self._random.random() < options.duplicate]
        if options.shuffle:
            self._random.shuffle(batch)
        return batch

    def _endpoints(self, half: Half, event: Object) -> list[Object]:
        """Those of the event's own half, and of the platform's for connected accounts; enabled, and wanting it."""
        found = [(endpoint, False) for endpoint in half.of("webhook_endpoint").values()]
        if half.account != PLATFORM:
            platform = self._world.halves.get((PLATFORM, half.livemode))
            found += [(endpoint, True) for endpoint in (platform.of("webhook_endpoint").values() if platform else ())]
        return [
            endpoint
            for endpoint, needs_connect in found
            if endpoint["status"] == "enabled"
            and endpoint["connect"] >= needs_connect
            and endpoint.get("is_thin", False) == (event["object"] == "v2.core.event")
            and ("*" in endpoint["enabled_events"] or event["type"] in endpoint["enabled_events"])
        ]

    async def _deliver(self, session: aiohttp.ClientSession, endpoint: Object, event: Object) -> None:
        body = orjson.dumps(event).decode()
        for attempt in range(TRIES):
            signature = self.sign(body, endpoint["secret"])
            headers: dict[str, Any] = {"Stripe-Signature": signature, "Content-Type": "application/json; charset=utf-8"}
            try:
                async with session.post(endpoint["url"], data=body.encode(), headers=headers) as answer:
                    if answer.status // 100 == 2:
                        self.delivered += 1
                        return
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.info("%s did not take %s: %s", endpoint["url"], event["type"], type(error).__name__)
            await asyncio.sleep(_PAUSE_S * 2**attempt)
        self.given_up += 1

    def sign(self, body: str, secret: str) -> str:
        """The Stripe-Signature header, at the fake's time, by the library's own function."""
        signature: str = WebhookSignature.generate_signature_header(body, secret, self._world.clock.now)
        return signature
