"""The PyPI package httpbin on werkzeug's threaded server, HTTP/1.1 with keep-alive."""

from __future__ import annotations

import logging

from werkzeug.serving import WSGIRequestHandler, make_server

from tests.support.upstreams import child


class _KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"


def main() -> None:
    logging.disable(logging.WARNING)
    from httpbin import app  # not before logging is off: it logs while it is imported

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_KeepAlive)
    child.announce(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    child.exit_with_parent()
    main()
