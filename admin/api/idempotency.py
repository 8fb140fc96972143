"""One answer per Idempotency-Key: a retry gets the first answer again and changes nothing.

The answer is kept for a day, in the transaction of the change it reports; two equal requests at the same moment wait
for each other, as all control writes do. A request that was refused keeps nothing and may be tried again. An answer
that shows a key is not kept: the retry is told (409) that the key was made and shown before, and which one it is.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import Any, Final

import asyncpg
import orjson
from pydantic import BaseModel

from admin.api.call import Call, Denied, Handler, Reply, invalid
from admin.nouns import Scope
from ledger import problems, sql

HEADER: Final = "Idempotency-Key"

_SQL = sql.load("admin.api", "idempotency.sql")
_FORM = re.compile(r"[\x21-\x7e]{1,255}")


def checked(key: str | None) -> str | None:
    """The header's value, None where there is none. Raises Denied."""
    if key is not None and not _FORM.fullmatch(key):
        raise invalid(HEADER, "expected 1 to 255 visible ASCII characters")
    return key


async def answer_once(call: Call, key: str | None, target: str, run: Handler) -> Reply:
    """Run the handler, or repeat the answer it gave to this key before. Raises Denied."""
    if key is None:
        return await run(call)
    body = call.body.model_dump(mode="json") if isinstance(call.body, BaseModel) else call.body
    return await once(call.connection, call.caller.scope, key, target, body, partial(run, call))


async def once(
    connection: asyncpg.Connection,
    scope: Scope,
    key: str | None,
    target: str,
    sent: Any,
    run: Callable[[], Awaitable[Reply]],
) -> Reply:
    """The same of whatever answers `target` with the JSON `sent`, in this scope."""
    if key is None:
        return await run()
    fingerprint = sha256(target.encode() + b"\n" + orjson.dumps(sent, option=orjson.OPT_SORT_KEYS)).digest()
    await connection.execute(_SQL["forget_old"])
    before = await connection.fetchrow(_SQL["find"], scope.project_id, scope.mode, key)
    if before is not None:
        if before["fingerprint"] != fingerprint:
            raise Denied(problems.IDEMPOTENCY_KEY_REUSED)
        if before["body"] is None:
            raise Denied(
                problems.KEY_SHOWN, f"What this request made is at {before['location']}; its secret was shown then."
            )
        return Reply(
            orjson.loads(before["body"]), before["status"], before["location"], headers={"Idempotency-Replayed": "true"}
        )
    reply = await run()
    body = None if reply.is_secret else orjson.dumps(reply.data).decode()
    await connection.execute(
        _SQL["keep"], scope.project_id, scope.mode, key, fingerprint, reply.status, reply.location, body
    )
    return reply
