"""The listener's certificate: loaded, loaded again when it changes, kept when the new one is bad."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from config.settings import GatewaySettings
from gateway.tls import Certificate, TlsError, certificate_of
from tests.gateway.test_app import Plane
from tests.support.processes import eventually


def write_pair(directory: Path, name: str, *, ends: timedelta = timedelta(hours=1)) -> tuple[Path, Path]:
    """A self-signed certificate for `name` that ends so far from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, private = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private


async def name_shown(context: ssl.SSLContext) -> str:
    """The common name that a new client is shown."""

    async def nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    async with await asyncio.start_server(nothing, "127.0.0.1", 0, ssl=context) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
    return common_name(der)


def common_name(der: bytes) -> str:
    (name,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def touch(path: Path) -> None:
    """Make sure a change is seen on file systems with coarse times."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


async def test_a_new_pair_is_used_for_new_connections(tmp_path: Path) -> None:
    certificate = Certificate(*write_pair(tmp_path, "old.test"))
    assert await name_shown(certificate.context) == "old.test"
    touch(write_pair(tmp_path, "new.test")[0])
    certificate.refresh()
    assert await name_shown(certificate.context) == "new.test"


async def test_a_bad_pair_is_reported_once_and_the_old_one_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chain, key = write_pair(tmp_path, "old.test")
    certificate = Certificate(chain, key)
    key.write_text("not a key")
    touch(key)
    certificate.refresh()
    certificate.refresh()
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert await name_shown(certificate.context) == "old.test"
    touch(write_pair(tmp_path, "new.test")[1])
    certificate.refresh()
    assert await name_shown(certificate.context) == "new.test"


def test_files_that_are_missing_or_do_not_fit_stop_the_start(tmp_path: Path) -> None:
    chain, key = write_pair(tmp_path, "a.test")
    with pytest.raises(TlsError, match=r"gone\.pem: No such file"):
        Certificate(tmp_path / "gone.pem", key)
    with pytest.raises(TlsError, match=r"certificate .*chain\.pem with key .*chain\.pem"):
        Certificate(chain, chain)


def test_the_settings_name_both_files_or_none(tmp_path: Path) -> None:
    chain, key = write_pair(tmp_path, "a.test")
    assert certificate_of(GatewaySettings()) is None
    assert certificate_of(GatewaySettings(tls_certificate=chain, tls_key=key)) is not None
    with pytest.raises(ValueError, match="go together"):
        GatewaySettings(tls_certificate=chain)


def test_the_gateways_port_speaks_https_and_takes_new_certificates(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    chain, key = write_pair(tmp_path, "gate.test")
    running = Plane(postgres_url, redis_url, tls_certificate=chain, tls_key=key)
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    def dial() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", running.port), timeout=5)
        try:
            return client.wrap_socket(plain, server_hostname="gate.test")
        except OSError:
            plain.close()
            raise

    def health(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: gate.test\r\n\r\n")
        return connection.recv(65_536)

    def shown() -> str:
        """The name in the certificate that a new connection is shown, "" if there is none."""
        try:
            with dial() as connection:
                assert health(connection).startswith(b"HTTP/1.1 200 OK")
                der = connection.getpeercert(binary_form=True)
                assert der is not None
                return common_name(der)
        except OSError:
            return ""

    try:
        eventually(lambda: shown() == "gate.test", within_s=20, what="an answer over HTTPS")
        assert running.get(running.port, "/health") == (0, "")
        with dial() as lasting:
            for path in write_pair(tmp_path, "renewed.test"):
                touch(path)
            eventually(lambda: shown() == "renewed.test", within_s=5, what="the new certificate")
            assert health(lasting).startswith(b"HTTP/1.1 200 OK")  # who is connected goes on
    finally:
        running.process.terminate()
        running.process.wait(timeout=10)
        running.end()
