"""Figures that move while one looks: server-sent events with parts of pages, drawn by the same templates.

A stream asks the ledger every two seconds and says something only when it changed; every 15 s it says that it is there.
Bounds: 200 streams a process and 10 a session, beyond that 503 and the page stays as it is; ten minutes each, then
browsers come again. Streams end when the process is asked to stop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from admin.accounts import members, sessions
from admin.api.call import Denied
from admin.permissions import Permission
from admin.store import StoreUnavailable
from admin.web import home
from admin.web.page import View
from admin.web.serve import Web
from ledger import problems

_MOST: Final = 200
_MOST_OF_ONE: Final = 10
_EVERY_S: Final = 2.0
_SILENCE: Final = 7
"""Looks without a change before a comment is sent."""
_LOOKS: Final = 300


@dataclass(frozen=True, slots=True)
class _Part:
    template: str
    find: Callable[[View], Awaitable[dict[str, Any]]]


_PARTS: Final = {"tiles": _Part("tiles.html", home.tiles), "start": _Part("counted.html", home.live)}


class Live:
    """The streams of one process."""

    def __init__(self, pages: Web) -> None:
        self._pages = pages
        self._open: Counter[str] = Counter()
        self._stop = asyncio.Event()

    async def stop(self, _: web.Application) -> None:
        """End all streams."""
        self._stop.set()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """One stream: /dashboard/live/{part}. Raises Denied."""
        part = _PARTS.get(request.match_info["part"])
        if part is None:
            raise Denied(problems.NOT_FOUND)
        who = request.cookies.get(self._pages.site.session_cookie, "")
        if self._open.total() >= _MOST or self._open[who] >= _MOST_OF_ONE:
            raise Denied(problems.STORE_UNAVAILABLE, "Too many pages are open.", headers={"Retry-After": "60"})
        first = await self._look(part, request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        self._open[who] += 1
        try:
            await self._tell(response, part, request, first)
        except (ConnectionError, StoreUnavailable, Denied):
            pass  # gone, signed out, or no database: the browser comes again
        finally:
            self._open[who] -= 1
            self._open += Counter()  # drops those at 0
        return response

    async def _tell(self, response: web.StreamResponse, part: _Part, request: web.Request, text: str) -> None:
        said, silent = "", 0
        for _ in range(_LOOKS):
            if text != said:
                said, silent = text, 0
                data = "".join(f"data: {line}\n" for line in text.splitlines())
                await response.write(f"event: {request.match_info['part']}\n{data}\n".encode())
            elif (silent := silent + 1) % _SILENCE == 0:
                await response.write(b": here\n\n")
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._stop.wait()
                return
            except TimeoutError:
                text = await self._look(part, request)

    async def _look(self, part: _Part, request: web.Request) -> str:
        site = self._pages.site
        cookie = request.cookies.get(site.session_cookie, "")
        async with self._pages.store.reading() as connection:
            session = await sessions.find(connection, cookie, site.address_of(request))
            if session is None:
                raise Denied(problems.NOT_SIGNED_IN)
            memberships = await members.projects_of(connection, session.account_id)
            project = next((one for one in memberships if one.id == session.project_id), None)
            remembered = self._pages.remembered
            view = View(connection, site, request, cookie, session, memberships, project, None, remembered)
            if not view.may(Permission.USAGE_READ):
                raise Denied(problems.FORBIDDEN)
            return self._pages.renderer.render(part.template, await part.find(view))
