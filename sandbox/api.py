"""The API of PRODUCT's code runner, over HTTP:

    POST   /api/run             run, answer with the result
    POST   /api/run/stream      the same as server-sent events: start, stdout, stderr, end
    GET    /api/run/{id}        a result (seven days), or {id, status} while it is queued or running
    DELETE /api/run/{id}        stop it
    GET    /api/runs            newest first: limit 1 to 100, cursor

Both ways to run honour an Idempotency-Key.

Who asks is told by the gateway in X-Tollgate-Project, -Mode, -Customer and -Key-Kind, which clients cannot send through
it; X-Tollgate-Secret proves that it is the gateway. What a run used is in the reply's `usage`, and, where the reply is
not streamed, in X-Usage-Runs, X-Usage-Cpu-Ms and X-Usage-Mem-Mb-S too, which are 0 for a reply given again (as is the usage
in the last event of a stream given again).
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web

from sandbox import pieces, problems
from sandbox.nouns import Stream
from sandbox.problems import Refused
from sandbox.request import Ceilings, RunRequest, invalid, read
from sandbox.runner import Live, Runner
from sandbox.store.database import Unavailable
from sandbox.store.nodes import FIND, LIVE, MOST_LIVE, STOP, Nodes, Silent
from sandbox.store.runs import Owner, Runs, new_id

_HEARTBEAT_S: Final = 15.0
_RETRY_S: Final = 1
_OPEN: Final = ("/health", "/ready")
_ENDED: Final = "ended"
_NONE: Final = {"runs": 0, "cpuMs": 0, "memMBs": 0}
_WRITTEN_S: Final = 3.0
"""Longest wait for a result that another node is about to write."""

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def owner_of(request: web.Request) -> Owner:
    """Whose request it is, as the gateway says. Raises Refused."""
    told = [request.headers.getall(f"X-Tollgate-{name}", []) for name in ("Project", "Mode", "Customer", "Key-Kind")]
    if any(len(values) != 1 for values in told) or not told[0][0]:
        raise Refused(problems.NOT_FROM_GATEWAY, "The request does not say whose it is.")
    (project,), (mode,), (customer,), (kind,) = told
    return Owner(project, mode, customer, sees_all=kind == "sk")


def guard(secret: str | None) -> Any:
    """Middleware: only the gateway gets in, every refusal is a problem document, and nothing else gets out."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request.headers.get("X-Request-Id", "")
        try:
            shown = request.headers.get("X-Tollgate-Secret", "")
            if (
                secret is not None
                and request.path not in _OPEN
                and not hmac.compare_digest(shown.encode("utf-8", "replace"), secret.encode())
            ):
                raise Refused(problems.NOT_FROM_GATEWAY)
            return await handler(request)
        except Refused as refused:
            return problems.response(refused, request_id)
        except Unavailable as error:
            log.warning("the database cannot be asked: %s", error)
            return problems.response(Refused(problems.STORE_UNAVAILABLE, retry_after_s=_RETRY_S), request_id)
        except Silent:
            return problems.response(Refused(problems.NODE_SILENT, retry_after_s=_RETRY_S), request_id)
        except web.HTTPRequestEntityTooLarge:
            return problems.response(Refused(problems.BODY_TOO_LARGE), request_id)
        except web.HTTPMethodNotAllowed:
            return problems.response(Refused(problems.METHOD_NOT_ALLOWED), request_id)
        except web.HTTPNotFound:
            return problems.response(Refused(problems.NOT_FOUND, "Nothing is served at this path."), request_id)
        except Exception:
            log.exception("request failed", extra={"request_id": request_id})
            return problems.response(Refused(problems.INTERNAL), request_id)

    return guarded


class Api:
    """The handlers. What this node does not have, `nodes` may."""

    def __init__(self, runner: Runner, runs: Runs, ceilings: Ceilings, nodes: Nodes) -> None:
        self._runner = runner
        self._runs = runs
        self._ceilings = ceilings
        self._nodes = nodes

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/api/run", self.run)
        app.router.add_post("/api/run/stream", self.stream)
        app.router.add_get("/api/run/{id}", self.get)
        app.router.add_delete("/api/run/{id}", self.stop)
        app.router.add_get("/api/runs", self.list)

    async def run(self, request: web.Request) -> web.Response:
        owner = owner_of(request)
        body = await _body(request)
        wanted = read(body, self._ceilings)
        key, run = _key(request), new_id()
        if key is not None and (known := await self._replayed(owner, key, body, run)) is not None:
            return await _answer(known, is_replay=True)
        try:
            return await _answer(await self._runner.finish(self._runner.start(run, owner, wanted)))
        except Refused:
            await self._give_back(owner, key, run)
            raise

    async def _give_back(self, owner: Owner, key: str | None, run: str) -> None:
        """Nothing was run: whoever comes with the same Idempotency-Key may try again."""
        if key is not None:
            await self._runs.unclaim(owner, key, run)

    async def _replayed(self, owner: Owner, key: str, body: bytes, run: str) -> dict[str, Any] | None:
        """The result of a request that was made before; None where this one is the first. Raises Refused."""
        digest = hashlib.sha256(body).digest()
        claim = await self._runs.claim(owner, key, digest, run)
        if claim.is_new:
            return None
        if not claim.is_same_request:
            raise Refused(problems.IDEMPOTENCY_KEY_REUSED)
        live = self._runner.find(claim.run, owner)
        if live is not None:
            assert live.done is not None
            return await asyncio.shield(live.done)
        document = await self._kept(claim.run, owner)
        if isinstance(document, dict):
            return document
        if document is None and claim.is_abandoned:
            await self._runs.unclaim(owner, key, claim.run)
            return await self._replayed(owner, key, body, run)
        raise Refused(problems.RUN_IN_PROGRESS, retry_after_s=_RETRY_S)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        owner = owner_of(request)
        body = await _body(request)
        wanted = read(body, self._ceilings)
        key, run = _key(request), new_id()
        if key is not None and (known := await self._replayed(owner, key, body, run)) is not None:
            return await _stream_again(request, known)
        try:
            return await self._streamed(request, run, owner, wanted, key)
        except Refused:
            await self._give_back(owner, key, run)
            raise

    async def _streamed(
        self, request: web.Request, run: str, owner: Owner, wanted: RunRequest, key: str | None
    ) -> web.StreamResponse:
        """A run's events. Raises Refused as long as none was sent."""
        output: asyncio.Queue[tuple[Stream, bytes]] = asyncio.Queue()  # bounded by maxOutputBytes
        live = self._runner.start(run, owner, wanted, lambda stream, data: output.put_nowait((stream, data)))
        finished = asyncio.ensure_future(self._runner.finish(live))
        try:
            response = await self._started(request, live, output, finished)
            await _pass_on(response, output, finished)
            try:
                await _event(response, "end", finished.result())
            except Refused as refused:
                await self._give_back(owner, key, run)
                told = {"code": refused.problem.code, "message": refused.detail, "usage": _NONE}
                await _event(response, "error", told)
            await response.write_eof()
        finally:
            if not finished.done():
                finished.cancel()  # stops the run
                await asyncio.gather(finished, return_exceptions=True)
        return response

    async def _started(
        self,
        request: web.Request,
        live: Live,
        output: asyncio.Queue[tuple[Stream, bytes]],
        finished: asyncio.Future[Any],
    ) -> web.StreamResponse:
        """The response, begun once the run has a turn or writes something. Raises Refused when it comes to nothing."""
        while live.state == "queued" and output.empty() and not finished.done():
            await asyncio.wait((finished,), timeout=0.05)
        if finished.done():
            finished.result()
        return await _begun(request, live.id)

    async def get(self, request: web.Request) -> web.Response:
        owner, run = owner_of(request), id_in(request, "run")
        live = self._runner.find(run, owner)
        if live is not None:
            return _json({"id": live.id, "status": live.state})
        document = await self._kept(run, owner)
        if document is None:
            raise Refused(problems.NOT_FOUND)
        shown = {"id": run, "status": document} if isinstance(document, str) else document
        return web.Response(body=await pieces.json(shown), content_type="application/json")

    async def _kept(self, run: str, owner: Owner) -> dict[str, Any] | str | None:
        """A run that is not live here: its result, or its state on the node that has it. Raises Unavailable, Silent."""
        document = await self._runs.find(run, owner)
        if document is not None:
            return document
        state = await self._nodes.ask(FIND, run, owner)
        if state is not None and state != _ENDED:
            return str(state)
        if state is None:  # it may have ended between the two questions
            return await self._runs.find(run, owner)
        try:
            async with asyncio.timeout(_WRITTEN_S):
                while (document := await self._runs.find(run, owner)) is None:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Silent from None
        return document

    def told(self, what: str, run: str, owner: Owner) -> Any:
        """What this node says to another (sandbox.store.nodes)."""
        if what == LIVE:
            return [{"id": live.id, "status": live.state} for live in self._runner.of(owner)[:MOST_LIVE]]
        live = self._runner.find(run, owner)
        if live is None:
            return _ENDED if self._runs.has_unwritten(run, owner) else None
        if what == STOP:
            live.handle.stop()
        return live.state

    async def stop(self, request: web.Request) -> web.Response:
        owner, run = owner_of(request), id_in(request, "run")
        live = self._runner.find(run, owner)
        if live is not None:
            live.handle.stop()
            return _json({"id": live.id, "status": "stopping"}, status=202)
        if await self._runs.find(run, owner) is not None:
            raise Refused(problems.RUN_ENDED)
        state = await self._nodes.ask(STOP, run, owner)
        if state is not None and state != _ENDED:
            return _json({"id": run, "status": "stopping"}, status=202)
        if state is None and await self._runs.find(run, owner) is None:
            raise Refused(problems.NOT_FOUND)
        raise Refused(problems.RUN_ENDED)

    async def list(self, request: web.Request) -> web.Response:
        owner = owner_of(request)
        limit, cursor = page_of(request, r"run_[0-9a-f]{32}")
        found = [] if cursor else [{"id": live.id, "status": live.state} for live in self._runner.of(owner)]
        if not cursor:
            found = sorted(found + await self._nodes.live(owner), key=lambda run: run["id"], reverse=True)
        page = await self._runs.page(owner, limit + 1, cursor)
        more = page[limit - 1]["id"] if len(page) > limit else None
        return _json({"runs": found + page[:limit], "cursor": more})


def id_in(request: web.Request, kind: str) -> str:
    """The id in a request's path, `run_…` or `fn_…`. Raises Refused: what has another form is nowhere."""
    text = request.match_info["id"]
    if not re.fullmatch(rf"{kind}_[0-9a-f]{{32}}", text, re.ASCII):
        raise Refused(problems.NOT_FOUND, None if kind == "run" else "There is no such endpoint.")
    return text


def page_of(request: web.Request, form: str) -> tuple[int, str]:
    """Limit and cursor of a list; `form` is what a cursor looks like. Raises Refused."""
    unknown = set(request.query) - {"limit", "cursor"}
    if unknown:
        raise invalid(*((name, "is not a known parameter") for name in sorted(unknown)))
    limit, cursor = request.query.get("limit", "20"), request.query.get("cursor", "")
    if not re.fullmatch(r"[1-9][0-9]?|100", limit, re.ASCII):
        raise invalid(("limit", "must be a number from 1 to 100"))
    if cursor and not re.fullmatch(form, cursor, re.ASCII):
        raise invalid(("cursor", "must be one that an earlier page gave"))
    return int(limit), cursor


def usage_headers(document: dict[str, Any], *, is_replay: bool = False) -> dict[str, str]:
    """What a run used, as the gateway's meters read it; a reply given again was counted when it ran."""
    usage = document["usage"]
    runs, cpu_ms, mem_mb_s = (0, 0, 0) if is_replay else (1, usage["cpuMs"], usage["memMBs"])
    return {"X-Usage-Runs": str(runs), "X-Usage-Cpu-Ms": str(cpu_ms), "X-Usage-Mem-Mb-S": str(mem_mb_s)}


def _key(request: web.Request) -> str | None:
    """The request's Idempotency-Key. Raises Refused."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and (not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable()):
        raise invalid(("Idempotency-Key", "must be 1 to 255 printable ASCII characters"))
    return key


async def _begun(request: web.Request, run: str, **more: str) -> web.StreamResponse:
    """The head of a stream, and its first event."""
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no", **more}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await _event(response, "start", {"id": run})
    return response


async def _stream_again(request: web.Request, document: dict[str, Any]) -> web.StreamResponse:
    """The events of a run that was made before. Its last one says that it costs nothing: meters read that."""
    response = await _begun(request, document["id"], **{"Idempotent-Replayed": "true"})
    for stream in Stream:
        if document[stream]:
            await _event(response, stream, {"text": document[stream]})
    await _event(response, "end", {**document, "usage": {**document["usage"], **_NONE}})
    await response.write_eof()
    return response


async def _body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise Refused(problems.UNSUPPORTED_MEDIA_TYPE)
    return await request.read()


async def _event(response: web.StreamResponse, name: str, data: dict[str, Any]) -> None:
    await response.write(b"event: %b\ndata: %b\n\n" % (name.encode(), await pieces.json(data)))


async def _pass_on(
    response: web.StreamResponse, output: asyncio.Queue[tuple[Stream, bytes]], finished: asyncio.Future[Any]
) -> None:
    """Output as events, as it comes, until the run has ended and all of it is out."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in Stream}
    waiting = asyncio.ensure_future(output.get())
    try:
        while True:
            await asyncio.wait((waiting, finished), timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                stream, data = waiting.result()
                if text := decoders[stream].decode(data):
                    await _event(response, stream, {"text": text})
                waiting = asyncio.ensure_future(output.get())
                await asyncio.sleep(0)
            elif finished.done():
                break
            else:
                await response.write(b": still running\n\n")
    finally:
        waiting.cancel()
    for stream, decoder in decoders.items():
        if text := decoder.decode(b"", final=True):
            await _event(response, stream, {"text": text})


async def _answer(document: dict[str, Any], *, is_replay: bool = False) -> web.Response:
    headers = usage_headers(document, is_replay=is_replay)
    if is_replay:
        headers["Idempotent-Replayed"] = "true"
    return web.Response(body=await pieces.json(document), content_type="application/json", headers=headers)


def _json(document: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")
