"""The small HTTP API behind the demo project's route /demo/*, so that there is something to call from the first minute.

    GET  /hello          exactly 1 KiB of JSON
    ANY  /echo           the request as JSON: method, path, query, headers, body
    ANY  /status/{code}  that status, 200 to 599
    GET  /slow?ms=500    answers after so many milliseconds (at most 60,000)
    GET  /stream?n=5     n server-sent events (at most 1,000), a tenth of a second apart

It listens on 127.0.0.1 only and ends on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from aiohttp import web

_MAX_BODY_BYTES = 1024 * 1024


def _hello() -> bytes:
    text = {"message": "Hello from the demo upstream.", "padding": ""}
    text["padding"] = "." * (1024 - len(json.dumps(text)))
    return json.dumps(text).encode()


HELLO = _hello()


async def hello(_: web.Request) -> web.Response:
    return web.Response(body=HELLO, content_type="application/json")


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.path,
            "query": request.query_string,
            "headers": [[name, value] for name, value in request.headers.items()],
            "body": body.decode("utf-8", "replace"),
        }
    )


async def status(request: web.Request) -> web.Response:
    code = int(request.match_info["code"])
    if not 200 <= code <= 599:
        raise web.HTTPBadRequest(text="a status from 200 to 599, please")
    return web.json_response({"status": code}, status=code)


async def slow(request: web.Request) -> web.Response:
    ms = _number(request, "ms", 500, 60_000)
    await asyncio.sleep(ms / 1000)
    return web.json_response({"ms": ms})


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    count = _number(request, "n", 5, 1_000)
    for number in range(1, count + 1):
        await response.write(f'id: {number}\ndata: {{"number": {number}, "of": {count}}}\n\n'.encode())
        await asyncio.sleep(0.1)
    await response.write_eof()
    return response


def _number(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= most):
        raise web.HTTPBadRequest(text=f"{name}: a number from 0 to {most}, please")
    return int(text)


def application() -> web.Application:
    """The whole API."""
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_get("/hello", hello)
    app.router.add_route("*", "/echo", echo)
    app.router.add_route("*", r"/status/{code:\d{3}}", status)
    app.router.add_get("/slow", slow)
    app.router.add_get("/stream", stream)
    return app


def main() -> None:
    """Serve on the port given by --port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    web.run_app(application(), host="127.0.0.1", port=parser.parse_args().port, print=None, access_log=None)


if __name__ == "__main__":
    main()
