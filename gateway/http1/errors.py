"""The one exception of the HTTP/1.1 grammar.

It carries a catalogue entry (what a client is told, with which status) and a detail that says which rule was broken.
The detail is public: it never contains bytes of the message, so no credential can leak through it. Readers of an
upstream's answer map every `Malformed` to their own problem (`UPSTREAM_INVALID`) and log the detail.
"""

from __future__ import annotations

from ledger.problems import BAD_REQUEST, Problem


class Malformed(Exception):
    """The bytes are not an acceptable HTTP/1.1 message; the connection they came on cannot be read any further."""

    def __init__(self, detail: str, problem: Problem = BAD_REQUEST) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
