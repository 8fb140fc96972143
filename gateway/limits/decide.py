"""What a reply of the admit script means: headers for who was admitted, a denial for who was not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger import problems

if TYPE_CHECKING:
    from gateway.limits.plan import Plan
    from ledger.problems import Problem

ADMITTED: Final = 0
COUNTED_BEFORE: Final = -1
SPEND: Final = "spend"
"""What the spend cap is called among the limits."""
UNKNOWN: Final = -2
"""The counters were lost and are being rebuilt; nothing was admitted, nothing refused."""
FULL: Final = -3
"""All places of what may be under way at once are taken. Never remembered: one may be free the next moment."""
CONCURRENT: Final = "concurrent"
"""What that limit is called among the limits."""

_MAX_QUOTA_DENIAL_S: Final = 1.0
"""A quota refusal is remembered this long only, since a settlement may give held quota back."""


class Denial(NamedTuple):
    """A refusal by limit. `wait_s` is whole seconds until trying again can succeed, `members` go into the problem."""

    problem: Problem
    wait_s: int
    violated: str
    limit: int
    used: int
    headers: bytes


def upgrade_at(url: str | None) -> str:
    """What refusals say to whom waiting is not enough."""
    return "Upgrade for more." if url is None else f"Upgrade for more: {url}"


class LimitFields(NamedTuple):
    """The rate-limit fields of answers, the same for all plans with the same limits.

    `format` takes remaining and reset of each window and each limited quota, then of the first of them; b"" where there
    is no limit. `windows` are limit and length in ms, `quotas` the limits, None where there is none. `usual` is limit,
    length and quota where there is one window and one limited quota and replies have nothing else in them, as is usual.
    """

    format: bytes
    usual: tuple[int, int, int] | None
    windows: tuple[tuple[int, int], ...]
    quotas: tuple[int | None, ...]


def limit_fields(plan: Plan) -> LimitFields:
    """What the answers to a plan's requests say of its limits."""
    windows = tuple([(window.limit, window.length_ms) for window in plan.windows])
    quotas = tuple([quota.limit for quota in plan.quotas])
    usual = None
    if len(windows) == 1 and len(quotas) == 1 and quotas[0] is not None and not plan.places and not plan.is_shadow:
        usual = (*windows[0], quotas[0])
    return LimitFields(_header_format(plan), usual, windows, quotas)


def _header_format(plan: Plan) -> bytes:
    """The rate-limit headers (draft-ietf-httpapi-ratelimit-headers-11, and the older X- form) as one format.

    Its values, in order: remaining and reset of each window and each limited quota; remaining and reset of the first.
    """
    policies, limits = [], []
    limited = [quota for quota in plan.quotas if quota.limit is not None]
    for window in plan.windows:
        policies.append(f'"{window.name}";q={window.limit};w={window.length_ms // 1000}')
        limits.append(f'"{window.name}";r=%d;t=%d')
    for quota in limited:
        unit = ';qu="requests"' if quota.meter == "requests" else ""
        policies.append(f'"{quota.meter}";q={quota.limit};w={plan.period_end - plan.period_start}{unit}')
        limits.append(f'"{quota.meter}";r=%d;t=%d')
    if not policies:
        return b""
    first = plan.windows[0].limit if plan.windows else limited[0].limit
    return (
        f"RateLimit-Policy: {', '.join(policies)}\r\nRateLimit: {', '.join(limits)}\r\n"
        f"X-RateLimit-Limit: {first}\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
    ).encode()


def limit_headers(plan: Plan, reply: Sequence[int]) -> bytes:
    """The rate-limit fields of an answer, from the admit script's reply."""
    form, usual, windows, quotas = plan.fields
    if usual is not None:
        limit, length_ms, quota = usual
        _, now, count, oldest, used = reply
        free = limit - count if count < limit else 0
        wait_s = (oldest + length_ms - now + 999) // 1000
        left = plan.period_end - now // 1000
        return form % (free, wait_s, quota - used if used < quota else 0, left if left > 0 else 0, free, wait_s)
    if not form:
        return b""
    now = reply[1]
    values: list[int] = []
    at = 2
    for limit, length_ms in windows:
        remaining, oldest = limit - reply[at], reply[at + 1]
        values.append(remaining if remaining > 0 else 0)
        values.append((oldest + length_ms - now + 999) // 1000 if oldest else 0)
        at += 2
    left = plan.period_end - now // 1000
    for included in quotas:
        if included is not None:
            remaining = included - reply[at]
            values.append(remaining if remaining > 0 else 0)
            values.append(left if left > 0 else 0)
        at += 1
    values.append(values[0])
    values.append(values[1])
    return form % tuple(values)


def would_have_refused(plan: Plan, reply: Sequence[int]) -> str | None:
    """The limit that a request admitted in shadow mode was beyond, if any; `reply` ends with the verdict without it."""
    index = reply[-1] - 1
    if index < 0:
        return CONCURRENT if reply[-1] == FULL else None
    if index < len(plan.windows):
        return plan.windows[index].name
    if index == len(plan.windows) + len(plan.quotas):
        return SPEND
    return plan.quotas[index - len(plan.windows)].meter


def later(reply: Sequence[int], seconds: float) -> list[int]:
    """What the same reply says some seconds later, while nothing else has changed."""
    return [reply[0], reply[1] + int(seconds * 1000), *reply[2:]]


def denial_of(plan: Plan, reply: Sequence[int]) -> tuple[Denial, float]:
    """The denial in a reply whose verdict is above 0, and for how many seconds it certainly stands."""
    index = reply[0] - 1
    now = reply[1]
    headers = limit_headers(plan, reply)
    if index < len(plan.windows):
        window = plan.windows[index]
        wait_ms = max(1, reply[3 + 2 * index] + window.length_ms - now)
        wait_s = (wait_ms + 999) // 1000
        denial = Denial(problems.RATE_LIMITED, wait_s, window.name, window.limit, reply[2 + 2 * index], headers)
        return denial, wait_ms / 1000
    if index == len(plan.windows) + len(plan.quotas):
        cap = (plan.tier.spend_cap_minor if plan.tier else None) or 0
        wait_s = max(1, plan.period_end - now // 1000)
        return Denial(problems.SPEND_CAP_REACHED, wait_s, SPEND, cap, cap, headers), min(wait_s, _MAX_QUOTA_DENIAL_S)
    quota = plan.quotas[index - len(plan.windows)]
    used = reply[2 + 2 * len(plan.windows) + index - len(plan.windows)]
    wait_s = max(1, plan.period_end - now // 1000)
    denial = Denial(problems.QUOTA_EXCEEDED, wait_s, quota.meter, quota.limit or 0, used, headers)
    return denial, min(wait_s, _MAX_QUOTA_DENIAL_S)
