"""The listener's certificate: loaded at start, loaded again when its files change, without a restart.

The files are looked at once a second. New handshakes use the new certificate, open connections keep theirs. A pair that
cannot be loaded (half-written, mismatched) is reported once and the old one stays in use.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from config.settings import GatewaySettings

_log = logging.getLogger("gateway.tls")


class TlsError(Exception):
    """The certificate or its key cannot be used. The message names the file and the reason."""


def certificate_of(settings: GatewaySettings) -> Certificate | None:
    """The certificate the settings name, loaded; None for plain HTTP. Raises TlsError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_certificate, settings.tls_key)


class Certificate:
    """A certificate chain and its key in PEM files; `context` is what a server takes."""

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._loaded = self._stamps()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._load(self.context)

    def refresh(self) -> None:
        """Load the files again if they have changed."""
        try:
            stamps = self._stamps()
            if stamps == self._loaded:
                return
            self._loaded = stamps
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # a try-out: a bad pair must not spoil the one in use
            self._load(self.context)
        except TlsError as error:
            _log.error("%s; the old certificate stays in use", error)
        else:
            _log.info("loaded a new certificate from %s", self._chain)

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        try:
            stats = [os.stat(path) for path in (self._chain, self._key)]
        except OSError as error:
            raise TlsError(f"{error.filename}: {error.strerror}") from None
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._chain, self._key)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"certificate {self._chain} with key {self._key}: {error}") from None
