"""The worker's archiving: every few hours, months that are old enough are moved to files, if it is set up."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from functools import partial
from typing import Final

import asyncpg

from config.settings import Settings
from ledger.archive import archive_due
from ledger.dependency import wait
from ledger.ingest import AWAY_ERRORS, brief
from tollgate.lines import Lines

EVERY_S: Final = 6 * 3600.0
STATEMENT_S: Final = 3600.0
"""Longest statement: it reads a month's events."""

log = logging.getLogger(__name__)


async def keep_archiving(settings: Settings, lines: Lines, stop: asyncio.Event) -> None:
    """Archive until `stop` is set; a failure is logged, and tried again next time."""
    directory, after = settings.worker.archive_directory, settings.worker.archive_after_months
    if directory is None or settings.postgres_url is None:
        return
    url = settings.postgres_url.get_secret_value()
    connect = lines.noting(partial(asyncpg.connect, url, timeout=5, command_timeout=STATEMENT_S))
    while not stop.is_set():
        try:
            connection = await connect()
            try:
                await archive_due(connection, directory.absolute(), datetime.now(UTC), after)
            finally:
                connection.terminate()  # closing in order would wait for a server that hangs
        except AWAY_ERRORS as error:
            log.error("archiving failed, nothing was dropped: %s", brief(error))
        await wait(stop, EVERY_S)
