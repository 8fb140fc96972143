"""Git's smart HTTP: `git http-backend` behind a small CGI server, for clone and push of the repositories in a folder.

Request bodies arrive with a length, chunked (pushes above http.postBuffer) or gzip-compressed (fetches with many refs);
they are spooled to a temporary file, because http-backend wants to read them to their end. Answers are chunked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Final
from urllib.parse import urlsplit

from tests.support.upstreams import child

_FORWARDED: Final = {
    "Content-Type": "CONTENT_TYPE",
    "Content-Encoding": "HTTP_CONTENT_ENCODING",
    "Git-Protocol": "HTTP_GIT_PROTOCOL",
}


class GitHandler(BaseHTTPRequestHandler):
    """One request is one run of http-backend."""

    protocol_version = "HTTP/1.1"
    root: str

    def do_GET(self) -> None:
        with tempfile.TemporaryFile() as body:
            self._spool(body)
            length = body.tell()
            body.seek(0)
            self._run(body, length)

    do_POST = do_GET

    def _spool(self, body: IO[bytes]) -> None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body.write(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left and (block := self.rfile.read(min(left, 65_536))):
            body.write(block)
            left -= len(block)

    def _run(self, body: IO[bytes], length: int) -> None:
        target = urlsplit(self.path)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",  # anyone may push: the gateway in front is what asks for a key
            "GIT_CONFIG_KEY_0": "http.receivepack",
            "GIT_CONFIG_VALUE_0": "true",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": target.path,
            "QUERY_STRING": target.query,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_LENGTH": str(length),
            **{name: self.headers[field] for field, name in _FORWARDED.items() if field in self.headers},
        }
        backend = subprocess.Popen(
            ["git", "http-backend"], env=environment, stdin=body, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert backend.stdout is not None
        with backend.stdout as output:
            status, fields = 200, []
            while line := output.readline().strip().decode():
                name, _, value = line.partition(": ")
                if name == "Status":
                    status = int(value.split()[0])
                else:
                    fields.append((name, value))
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while block := output.read(65_536):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")
        backend.wait()

    def log_message(self, *arguments: object) -> None:
        """Say nothing: the tests look at what git prints."""


def main(root: str) -> None:
    if shutil.which("git") is None:
        raise SystemExit("git is not installed")
    GitHandler.root = root
    with ThreadingHTTPServer(("127.0.0.1", 0), GitHandler) as server:
        child.announce(server.server_port)
        server.serve_forever()


if __name__ == "__main__":
    child.exit_with_parent()
    main(sys.argv[1])
