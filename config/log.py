"""Logging, set up once when a process starts: JSON lines for machines or lines for people, on standard error.

A JSON line has `time` (UTC), `level`, `plane`, `logger`, `message`, whatever was passed as `extra` (such as
`request_id`), and `exception` where there is one. Secrets are hidden in all of it (config/redact.py), and fields named
like a secret are never written. Writing blocks: nothing on the hot path of a request may log.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from config.redact import MASK, redact
from config.settings import Settings

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_SECRET_FIELDS: Final = frozenset(
    ("authorization", "cookie", "set_cookie", "password", "secret", "token", "key", "api_key", "apikey", "x_api_key")
)
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def setup(settings: Settings, plane: str) -> None:
    """Send all logging of this process to standard error in the configured format. Calling it again replaces it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(plane) if settings.log_format == "json" else ConsoleFormatter(plane))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {
        name: MASK if name.lower().replace("-", "_") in _SECRET_FIELDS else value
        for name, value in vars(record).items()
        if name not in _STANDARD and value is not None
    }


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, plane: str) -> None:
        super().__init__()
        self._plane = plane

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "plane": self._plane,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _extras(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str, skipkeys=True))


class ConsoleFormatter(logging.Formatter):
    """`12:50:47.123 warning gateway  message  name=value`, and the traceback below where there is one."""

    def __init__(self, plane: str) -> None:
        super().__init__()
        self._plane = plane

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")[11:23]
        line = f"{time} {record.levelname.lower():<7} {self._plane:<8} {record.getMessage()}"
        line += "".join(f"  {name}={value}" for name, value in _extras(record).items())
        line = line.translate(_CONTROL)  # what a client sent may not forge a second line
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)
