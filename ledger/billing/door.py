"""The one way to Stripe: every call there goes through here, and comes back as a verdict instead of an exception.

What matters about a failure is whether Stripe may have carried the call out:

    accepted      it has, now
    duplicate     it has, before: the identifier is known (HTTP 400, which is delivery, not failure)
    refused       it has not and never will: the request itself is wrong, `reason` is Stripe's code
    throttled     it has not: too many requests (429), slow down
    unavailable   it has not: no connection, a key that is not valid, an account that is gone
    unknown       nobody knows: a time-out, a dropped connection, half an answer, a 5xx

The library's own retries are off: they leave out 429 and know nothing of other workers. Every call has a deadline.
Secret keys appear in no message and no log.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

import aiohttp
import stripe

from ledger.metrics import BillingMetrics

CALL_S: Final = 20.0
"""Longest wait for an answer of Stripe's."""

_THROTTLED_S: Final = (0.5, 1.0, 2.0, 4.0)
"""Pauses before a question is asked again that met too many requests."""
_DUPLICATE: Final = "already exists with identifier"

log = logging.getLogger(__name__)
T = TypeVar("T")


class Verdict(StrEnum):
    """How a call ended; see the module."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason` is for people, and a code where Stripe gave one; `is_answered` if an answer of 5xx came."""

    verdict: Verdict
    reason: str = ""
    is_answered: bool = False


class StripeUnavailable(Exception):
    """A question could not be answered. The message holds no secret."""


@dataclass(frozen=True, slots=True)
class Report:
    """What Stripe found wrong with events it had accepted. `rejected`: identifier → code, of a sample of them."""

    event_id: str
    kind: str
    errors: int
    rejected: Mapping[str, str]
    payload: Mapping[str, Any]


def verdict_of(error: BaseException) -> Outcome:
    """What a failure says about whether Stripe carried the call out. Pure."""
    if isinstance(error, stripe.APIConnectionError):
        cause = error.__cause__
        if isinstance(cause, aiohttp.ClientConnectorError):
            return Outcome(Verdict.UNAVAILABLE, "no connection")
        return Outcome(Verdict.UNKNOWN, f"connection lost: {type(cause).__name__}")
    if isinstance(error, stripe.StripeError):
        status, code = error.http_status or 0, error.code or type(error).__name__
        if status == 429 or isinstance(error, stripe.RateLimitError):
            return Outcome(Verdict.THROTTLED, code)
        if isinstance(error, stripe.InvalidRequestError) and _DUPLICATE in str(error):
            return Outcome(Verdict.DUPLICATE)
        if status >= 500 or status == 409:
            return Outcome(Verdict.UNKNOWN, f"HTTP {status}", is_answered=status >= 500)
        if status in (401, 403):
            return Outcome(Verdict.UNAVAILABLE, code)
        if 400 <= status < 500:
            return Outcome(Verdict.REFUSED, code)
    return Outcome(Verdict.UNKNOWN, type(error).__name__)


class Door:
    """Stripe, for as many accounts and modes as there are keys. Safe for use by several tasks at once."""

    def __init__(
        self,
        keys: Mapping[str, str],
        metrics: BillingMetrics,
        *,
        base_url: str | None = None,
        timeout_s: float = CALL_S,
    ) -> None:
        """`keys`: mode → the platform's secret key. `base_url`: another Stripe than the real one, for tests."""
        stripe.enable_telemetry = False  # it would write to the home folder
        logging.getLogger("stripe").setLevel(logging.WARNING)  # it tells of every call
        self._session: aiohttp.ClientSession | None = None
        self._keys = dict(keys)
        self._base = base_url
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._clients: dict[str, stripe.StripeClient] = {}
        self._meters: dict[tuple[str, str | None, str], str] = {}

    @property
    def modes(self) -> list[str]:
        """Those there is a key for."""
        return sorted(self._keys)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._clients.clear()

    def _client(self, mode: str) -> stripe.StripeClient:
        if mode not in self._clients:
            if self._session is None:
                self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))
            base: Any = {} if self._base is None else {"base_addresses": {"api": self._base}}
            self._clients[mode] = stripe.StripeClient(
                self._keys[mode],
                http_client=stripe.AIOHTTPClient(session=self._session, timeout=self._timeout_s),
                max_network_retries=0,
                **base,
            )
        return self._clients[mode]

    async def send_usage(
        self,
        mode: str,
        account: str | None,
        *,
        event_name: str,
        customer: str,
        value: int,
        timestamp: int,
        identifier: str,
        turn: int = 0,
    ) -> Outcome:
        """Tell of usage. The idempotency key stays the same until an answer of 5xx came, which Stripe would repeat."""
        options: Any = {"idempotency_key": f"{identifier}-{turn}", **_of(account)}
        call = self._client(mode).v1.billing.meter_events.create_async(
            {
                "event_name": event_name,
                "identifier": identifier,
                "timestamp": timestamp,
                "payload": {"stripe_customer_id": customer, "value": str(value)},
            },
            options,
        )
        try:
            async with asyncio.timeout(self._timeout_s + 5):
                await call
            outcome = Outcome(Verdict.ACCEPTED)
        except (stripe.StripeError, aiohttp.ClientError, OSError, ValueError) as error:
            outcome = verdict_of(error)
        self._metrics.calls.labels("meter_event", outcome.verdict).inc()
        return outcome

    async def used(
        self, mode: str, account: str | None, *, event_name: str, customer: str, start: int, end: int
    ) -> dict[int, int]:
        """What Stripe has added up for a customer in [start, end), whole hours: hour → units. Raises StripeUnavailable."""
        meter = await self._meter(mode, account, event_name)
        params: Any = {
            "customer": customer,
            "start_time": start,
            "end_time": end,
            "value_grouping_window": "hour",
            "limit": 100,
        }
        service = self._client(mode).v1.billing.meters.event_summaries
        found: dict[int, int] = {}
        while True:
            page = await self._ask("summaries", partial(service.list_async, meter, params.copy(), _of(account)))
            for summary in page.data:
                found[summary.start_time] = found.get(summary.start_time, 0) + int(summary.aggregated_value)
            if not page.has_more or not page.data:
                return found
            params["starting_after"] = page.data[-1].id

    async def reports(self, mode: str, account: str | None, known: Callable[[str], bool]) -> list[Report]:
        """Error reports that are not `known` yet, by event id, newest first. Raises StripeUnavailable.

        Reads page after page until one holds a report that is known. What cannot be read is a report of no errors.
        """
        client = self._client(mode)
        where: Any = {} if account is None else {"stripe_context": account}  # what Stripe-Account is to /v1
        types = ["v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"]
        ask = partial(client.raw_request_async, "get", "/v2/core/events", types=types, limit=100, **where)
        found: list[Report] = []
        while True:
            page = (await self._ask("reports", ask)).data
            fresh = [event["id"] for event in page["data"] if not known(event["id"])]
            for event_id in fresh:
                path = f"/v2/core/events/{event_id}"
                answer = await self._ask("reports", partial(client.raw_request_async, "get", path, **where))
                found.append(report_of(event_id, answer.data))
            following = page.get("next_page_url")
            if not following or len(fresh) < len(page["data"]):
                return found
            ask = partial(client.raw_request_async, "get", following, **where)

    async def report(self, mode: str, account: str | None, event_id: str) -> Report:
        """One error report by its event's id. Raises StripeUnavailable, also where Stripe knows no such event."""
        where: Any = {} if account is None else {"stripe_context": account}
        path = f"/v2/core/events/{event_id}"
        answer = await self._ask("reports", partial(self._client(mode).raw_request_async, "get", path, **where))
        return report_of(event_id, answer.data)

    async def _meter(self, mode: str, account: str | None, event_name: str) -> str:
        """The id of the meter of an event name, remembered."""
        name = (mode, account, event_name)
        if name not in self._meters:
            service = self._client(mode).v1.billing.meters
            params: Any = {"limit": 100}
            while True:
                page = await self._ask("meters", partial(service.list_async, params.copy(), _of(account)))
                for meter in page.data:  # newest first: an archived one of the same name does not stand before it
                    self._meters.setdefault((mode, account, meter.event_name), meter.id)
                if name in self._meters or not page.has_more:
                    break
                params["starting_after"] = page.data[-1].id
        if name not in self._meters:
            raise StripeUnavailable(f"Stripe has no meter with event name {event_name!r}")
        return self._meters[name]

    async def _ask(self, what: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to a question; asked again after a pause where there were too many requests."""
        for pause_s in (*_THROTTLED_S, None):
            try:
                async with asyncio.timeout(self._timeout_s + 5):
                    answer = await call()
            except (stripe.StripeError, aiohttp.ClientError, OSError, ValueError) as error:
                outcome = verdict_of(error)
                self._metrics.calls.labels(what, outcome.verdict).inc()
                if outcome.verdict is not Verdict.THROTTLED or pause_s is None:
                    raise StripeUnavailable(f"{what}: {outcome.verdict}, {outcome.reason}") from error
                await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            else:
                self._metrics.calls.labels(what, Verdict.ACCEPTED).inc()
                return answer
        raise AssertionError("the last pause is none")


def report_of(event_id: str, event: Mapping[str, Any]) -> Report:
    """A thin event's full form as a Report; believes nothing: one that cannot be read is kept, and tells of no errors."""
    try:
        reason = event["data"]["reason"]
        rejected = {
            str(sample["request"]["identifier"]): str(kind["code"])
            for kind in reason["error_types"]
            for sample in kind["sample_errors"]
        }
        return Report(event_id, str(event["type"]), int(reason["error_count"]), rejected, dict(event))
    except (KeyError, TypeError, ValueError) as error:
        log.error("an error report of Stripe's cannot be read (%s): %s", type(error).__name__, event_id)
        return Report(event_id, "unreadable", 0, {}, {"event": str(event)[:10_000]})


def _of(account: str | None) -> Any:
    return {} if account is None else {"stripe_account": account}
