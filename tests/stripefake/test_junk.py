"""Junk sent to the fake: every answer is one of Stripe's, never a crash of the fake."""

from __future__ import annotations

import random
from typing import Any, Final, get_args, get_origin
from urllib.parse import urlencode

import aiohttp
from typing_extensions import is_typeddict

from stripefake.app import OPERATIONS, Running
from stripefake.call import Operation
from stripefake.schema import fields_of, params_type

REQUESTS: Final = 3_000
VALUES: Final = (
    "", "0", "-1", "1", "true", "usd", "month", "metered", "per_unit", "tiered", "sum", "x", "1e9", "9" * 20, "now",
    "subscription", "payment", "cancel", "\x00", "é\U0001f600", "a" * 200, "https://x.test/", "thin", "webhook_endpoint",
)  # fmt: skip


def form_of(choose: random.Random, operation: Operation, known: list[str]) -> list[tuple[str, str]]:
    """A form for this operation: its required fields and some others, as deep as they go; now and then one that is none."""
    form = []
    fields = fields_of(params_type(operation.params)) if operation.params else {}
    wanted = [name for name, (_, is_required) in fields.items() if is_required and choose.random() < 0.95]
    wanted += choose.choices(sorted(fields), k=choose.randrange(4)) if fields else []
    for first in wanted:
        name, hint = first, fields[first][0]
        for _ in range(4):
            inner = next((t for t in (hint, *get_args(hint)) if is_typeddict(t)), None)
            items = next((t for t in (hint, *get_args(hint)) if get_origin(t) is list), None)
            if items is not None:
                name, hint = f"{name}[{choose.choice('00011x')}]", get_args(items)[0]
            elif inner is not None and (deeper := fields_of(inner)):
                field = choose.choice(sorted(deeper))
                name, hint = f"{name}[{field}]", deeper[field][0]
        form.append((name, choose.choice([*VALUES, *known])))
    if choose.random() < 0.1:
        form.append((choose.choice(["nonsense", "a[b][c]", "a[", "[]", "", "expand[]", "metadata[x]"]), "1"))
    return form


async def test_every_answer_is_one_of_stripes(fake: Running) -> None:
    choose, known, statuses = random.Random(7), ["x"], set()
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk_test_1"}) as session:
        for _ in range(REQUESTS):
            operation = choose.choice(OPERATIONS)
            url = fake.url + operation.path.replace("{id}", choose.choice(known[-40:]))
            encoded = urlencode(form_of(choose, operation, known[-40:]))
            content: dict[str, Any] = {"data": encoded} if operation.method == "POST" else {"params": encoded}
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if operation.method == "POST" else {}
            async with session.request(operation.method, url, headers=headers, **content) as answer:
                body = await answer.json(content_type=None)
            statuses.add(answer.status)
            assert answer.status < 500, (operation.method, url, encoded, body)
            assert answer.status == 200 or body["error"]["message"], (operation, encoded, body)
            if answer.status == 200 and "id" in body:
                known.append(str(body["id"]))
    assert statuses >= {200, 400, 404}
