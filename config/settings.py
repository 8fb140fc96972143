"""Every setting of every plane: frozen models with a default, a bound and a sentence each.

One setting has three spellings: `gateway.port` in code, `port` under `[gateway]` in tollgate.toml, and
`TOLLGATE_GATEWAY_PORT` in the environment. Precedence: command line, environment, file, default (config/load.py).
A setting is validated when a process starts and passed down from its composition root; nothing imports it as a global.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from config.encryption import decode_keys

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 picks a free one."""
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    BeforeValidator(lambda value: [part.strip() for part in value.split(",")] if isinstance(value, str) else value),
]
"""Networks such as 10.0.0.0/8: a list, or text with commas between."""
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(_Section):
    """The data plane."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=8080, description="port for clients")
    workers: int = Field(default=1, ge=1, le=256, description="worker processes sharing the port")
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate chain: the port then speaks HTTPS"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the certificate's private key")
    metrics_port: Port = Field(default=8090, description="port of /metrics, on the same address")
    max_head_bytes: int = Field(default=32_768, ge=1_024, le=1_048_576, description="largest request head (431 beyond)")
    max_target_bytes: int = Field(default=8_192, ge=256, le=65_536, description="longest request target (414 beyond)")
    max_headers: int = Field(default=100, ge=8, le=1_000, description="most header fields (431 beyond)")
    max_connections: int = Field(
        default=16_384, ge=1, le=1_000_000, description="client connections of each worker (503 beyond)"
    )
    max_requests_per_project: int | None = Field(
        default=None, ge=1, description="requests of one project under way at once, in each worker (503 beyond)"
    )
    cache_max_bytes: int = Field(
        default=268_435_456, ge=0, description="most that is kept of answers in each worker, over all routes with cache"
    )
    head_timeout_ms: Milliseconds = Field(default=10_000, description="time for a request head to arrive (408 beyond)")
    body_timeout_ms: Milliseconds = Field(
        default=60_000, description="longest silence inside a request body (408 beyond)"
    )
    idle_timeout_ms: Milliseconds = Field(default=75_000, description="how long an idle client connection is kept")
    drain_timeout_ms: Milliseconds = Field(default=30_000, description="time open requests get to finish at shutdown")
    drain_idle_ms: Milliseconds = Field(
        default=1_000, description="time idle connections get for one more request at shutdown, before they are closed"
    )
    store_deadline_ms: Milliseconds = Field(
        default=100, description="longest wait for Redis before the route's policy rules"
    )
    lookup_deadline_ms: Milliseconds = Field(
        default=2_000, description="longest wait for Postgres when a key is first seen"
    )
    poll_interval_ms: Milliseconds = Field(
        default=400, description="how often the revision of keys, tiers, routes is polled"
    )
    max_cached_keys: int = Field(default=100_000, ge=100, description="keys kept in memory by each worker")
    admin_url: str | None = Field(
        default=None,
        description="admin plane whose paths (/api/v1, /auth, pages) are served here too, http://host:port",
    )
    sandbox_url: str | None = Field(
        default=None,
        description="the sandbox, http://host:port (nodes: commas between): upstreams there are told who asks, and"
        " sandbox.secret",
    )
    max_known_heads: int = Field(
        default=16_384, ge=1, description="request heads kept in memory by each worker, some KiB each"
    )
    unknown_keys_per_minute: int = Field(
        default=120,
        ge=0,
        description="look-ups of keys that turn out not to exist, per client address and worker (429 beyond; 0: any)",
    )
    spool_dir: Path = Field(
        default=Path(".tollgate/spool"), description="folder for usage that Redis cannot take; on a disk that stays"
    )
    spool_max_bytes: int = Field(
        default=268_435_456, ge=0, description="most of it on disk per worker; 0 goes without (unsafe: memory only)"
    )
    spool_fsync: Literal["always", "interval", "off"] = Field(
        default="interval", description="when it must survive the machine: each write, within a second, or whenever"
    )
    spool_when_full: Literal["refuse", "lose"] = Field(
        default="refuse", description="refuse new requests with 503 while the spool is full, or lose their usage"
    )
    trusted_proxies: Networks = Field(
        default=(), description="networks of proxies whose word about clients is believed, commas between"
    )
    forwarded_by: Literal["x-forwarded-for", "forwarded"] = Field(
        default="x-forwarded-for",
        description="the field those proxies write (with X-Forwarded-Proto and -Host, or alone)",
    )

    @model_validator(mode="after")
    def _certificate_and_key_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self


class AdminSettings(_Section):
    """The control plane."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=8081, description="port of pages and API")
    metrics_port: Port = Field(default=8091, description="port of /metrics, on the same address")
    max_body_bytes: int = Field(default=1_048_576, ge=1_024, description="largest JSON body")
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[A-Za-z0-9.\[\]:-]+$",
        description="where people reach the pages, https://host: links in mail start so; https makes cookies Secure",
    )
    trusted_proxies: Networks = Field(
        default=(), description="networks of gateways, and of the proxies they trust, whose X-Forwarded-For is believed"
    )
    show_mail: bool = Field(default=False, description="serve /dev/mail, which shows all mail: for development only")

    @property
    def origin(self) -> str:
        """Where its pages are, without a trailing slash. Never taken from a request."""
        return self.public_url or f"http://{self.host}:{self.port}"


class MailSettings(_Section):
    """How mail leaves."""

    transport: Literal["console", "smtp", "resend"] = Field(
        default="console", description="console prints mail instead of sending it"
    )
    sender: str = Field(
        default="Tollgate <tollgate@localhost>", pattern=r"^[^\r\n]{3,254}$", description="From of all mail"
    )
    smtp_host: str = Field(default="localhost", description="SMTP server")
    smtp_port: Port = Field(default=587, description="its port")
    smtp_security: Literal["starttls", "tls", "none"] = Field(default="starttls", description="how it is encrypted")
    smtp_username: str | None = Field(default=None, description="who signs in at the SMTP server")
    smtp_password: SecretStr | None = Field(default=None, description="the password for that")
    resend_api_key: SecretStr | None = Field(default=None, description="key of Resend, where transport is resend")
    resend_url: str = Field(default="https://api.resend.com/emails", description="where Resend takes mail")

    @model_validator(mode="after")
    def _resend_has_a_key(self) -> Self:
        if self.transport == "resend" and self.resend_api_key is None:
            raise ValueError("transport resend needs resend_api_key")
        return self


class WorkerSettings(_Section):
    """The process that keeps the books."""

    host: str = Field(default="127.0.0.1", description="address of /health and /metrics")
    metrics_port: Port = Field(default=8092, description="port of /health and /metrics")
    batch_size: int = Field(default=2_000, ge=1, le=50_000, description="most events in one ledger transaction")
    reclaim_after_ms: Milliseconds = Field(
        default=10_000, description="pending entries of a silent consumer are taken over after"
    )
    sweep_interval_ms: Milliseconds = Field(
        default=10_000, description="how often reservations of dead gateways are looked for"
    )
    orphan_policy: Literal["charge_estimate", "release"] = Field(
        default="charge_estimate",
        description="what becomes of a request whose gateway died: charge what was held, or not",
    )
    webhooks_to_private: bool = Field(
        default=False, description="let webhooks go to private addresses and without TLS: for development"
    )
    alert_interval_ms: Milliseconds = Field(
        default=10_000, description="how often customers near their quotas are looked for"
    )
    partitions_ahead: int = Field(default=3, ge=1, le=24, description="monthly partitions made ahead")
    archive_directory: Path | None = Field(
        default=None, description="where months of events are moved to as compressed files; without it none are"
    )
    archive_after_months: int = Field(
        default=13, ge=3, le=1_200, description="months that ended so long ago are archived, where a directory is set"
    )


def _networks(text: str) -> str:
    for part in filter(None, (part.strip() for part in text.split(","))):
        ip_network(part)  # raises ValueError
    return text


class SandboxSettings(_Section):
    """The plane that runs submitted code."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=8082, description="port of the API, for gateways only")
    socket: Path | None = Field(default=None, description="unix socket to listen on instead of host and port")
    metrics_port: Port = Field(default=8093, description="port of /metrics, on the same address")
    secret: SecretStr | None = Field(
        default=None, description="what gateways show in X-Tollgate-Secret; needed unless there is a unix socket"
    )
    postgres_url: SecretStr | None = Field(
        default=None, description="PostgreSQL for results, with a database or role of its own"
    )
    backend: Literal["auto", "jail", "docker"] = Field(
        default="auto", description="where code runs: auto takes the first that is safe here"
    )
    bwrap: Path | None = Field(default=None, description="bubblewrap, if not found on the path")
    python: Path | None = Field(default=None, description="Python for submitted code; default: the system's")
    node: Path | None = Field(default=None, description="Node for submitted code; default: the system's")
    bubblewrap_only: bool = Field(
        default=False, description="as root too, make every jail with bubblewrap, at a quarter more CPU"
    )
    zygote: bool = Field(
        default=False, description="as root, clone the interpreters of jails too; they then share a hash seed"
    )
    docker_url: str | None = Field(
        default=None, description="the Engine's socket; default: DOCKER_HOST, else the usual"
    )
    docker_image: str = Field(default="tollgate-sandbox", description="image of the docker backend")
    docker_runtime: str | None = Field(default=None, description="the Engine's runtime, such as runsc (gVisor)")
    warm_python: int = Field(default=4, ge=0, le=256, description="Python guests kept ready")
    warm_node: int = Field(default=2, ge=0, le=256, description="Node guests kept ready")
    max_running: int = Field(default=8, ge=1, le=1_024, description="runs at once")
    max_running_per_project: int = Field(default=4, ge=1, le=1_024, description="runs of one project at once")
    max_waiting: int = Field(default=256, ge=0, le=100_000, description="runs waiting for a turn (503 beyond)")
    max_waiting_per_project: int = Field(default=32, ge=0, le=100_000, description="of one project (429 beyond)")
    wait_ms: Milliseconds = Field(default=10_000, description="longest wait for a turn (503 beyond)")
    max_body_bytes: int = Field(default=16_777_216, ge=1_024, description="largest request body (413 beyond)")
    max_timeout_ms: int = Field(default=300_000, ge=100, le=3_600_000, description="largest timeoutMs of a run")
    max_memory_mb: int = Field(default=2_048, ge=64, le=1_048_576, description="largest memoryMB of a run")
    max_output_bytes: int = Field(default=10_485_760, ge=1_024, description="largest maxOutputBytes of a run")
    max_pids: int = Field(default=64, ge=4, le=4_096, description="processes and threads of a run")
    cpus: float = Field(default=1.0, gt=0, le=256, description="CPUs a run may use")
    workspace_mb: int = Field(default=64, ge=1, le=65_536, description="size of a run's /workspace, and of its /tmp")
    uid_base: int = Field(default=230_000, ge=1_000, description="first of the user ids that runs get, as root")
    python_index: str | None = Field(
        default=None,
        description="index that Python packages come from, such as your mirror's /simple; none: no packages",
    )
    python_index_hosts: str = Field(
        default="", description="further hosts that this index sends clients to, commas between"
    )
    node_registry: str | None = Field(
        default=None, description="registry that npm packages come from; none: no packages"
    )
    node_registry_hosts: str = Field(default="", description="further hosts that this registry sends clients to")
    layers_dir: Path | None = Field(
        default=None, description="where installed packages are kept; default /var/lib/tollgate-sandbox, or ~/.cache"
    )
    layers_mb: int = Field(default=4_096, ge=64, description="most that installed packages may take on disk")
    egress_networks: Annotated[str, AfterValidator(_networks)] = Field(
        default="", description="private networks that runs with allowNet may reach all the same, commas between"
    )
    keep_days: int = Field(default=7, ge=1, le=3_650, description="how long results are kept")


class StripeSettings(_Section):
    """Stripe, as the platform's own account sees it."""

    live_key: SecretStr | None = Field(
        default=None, description="secret key sk_live_…; without it nothing live is sent"
    )
    test_key: SecretStr | None = Field(
        default=None, description="secret key sk_test_…; without it nothing of mode test"
    )
    api_url: str | None = Field(
        default=None, description="another Stripe than the real one, such as tollgate stripe-fake"
    )
    webhook_secrets: SecretStr | None = Field(
        default=None, description="secrets whsec_… of the webhook endpoints that Stripe calls here, commas between"
    )
    requests_per_second: int = Field(default=20, ge=1, le=1_000, description="most calls a second, of each worker")
    concurrency: int = Field(default=8, ge=1, le=100, description="most calls at once, of each worker")
    send_interval_ms: Milliseconds = Field(default=2_000, description="how often usage that is due is looked for")

    @model_validator(mode="after")
    def _keys_are_of_their_mode(self) -> Self:
        for mode, key in (("live", self.live_key), ("test", self.test_key)):
            text = "" if key is None else key.get_secret_value()
            is_masked = not text.strip("*")  # as the gateway's workers get it, who must not know it
            if not is_masked and not text.startswith((f"sk_{mode}_", f"rk_{mode}_")):
                raise ValueError(f"{mode}_key is not a Stripe key of mode {mode}")
        return self

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """Those that notices may be signed with; none: no notice is taken."""
        text = "" if self.webhook_secrets is None else self.webhook_secrets.get_secret_value()
        return tuple(filter(None, (part.strip() for part in text.split(","))))

    @property
    def keys(self) -> dict[str, str]:
        """Mode → secret key, of the modes that have one."""
        found = {"live": self.live_key, "test": self.test_key}
        return {mode: key.get_secret_value() for mode, key in found.items() if key is not None}


class Settings(_Section):
    """All of it."""

    postgres_url: SecretStr | None = Field(
        default=None, description="PostgreSQL ≥ 15, postgresql://user:password@host/db"
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Redis or Valkey ≥ 6.2, redis://:password@host:6379/0"
    )
    encryption_keys: SecretStr | None = Field(
        default=None, description="keys that seal stored credentials: base64 of 32 bytes, newest first, commas between"
    )
    encryption_keys_file: Path | None = Field(
        default=None, description="file with further such keys, such as a mounted secret; read at start"
    )
    redis_shards: int = Field(
        default=16, ge=1, le=100, description="shards of counters and streams; fixed for a data set"
    )
    stream_max_entries: int = Field(
        default=1_000_000, ge=1, description="unstored events per shard before new requests are refused with 503"
    )
    log_format: Literal["json", "console"] = Field(default="json", description="structured lines, or lines for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severity logged")
    gateway: GatewaySettings = GatewaySettings()
    admin: AdminSettings = AdminSettings()
    mail: MailSettings = MailSettings()
    sandbox: SandboxSettings = SandboxSettings()
    worker: WorkerSettings = WorkerSettings()
    stripe: StripeSettings = StripeSettings()

    @field_validator("encryption_keys")
    @classmethod
    def _keys_are_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None:
            decode_keys(keys.get_secret_value())
        return keys
