"""Settings: precedence, origins, and errors that say where and what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.encryption import new_key
from config.load import SettingsError, displayed, fields, load, to_environment, variable
from config.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tollgate.toml"


def test_without_anything_every_setting_is_its_default() -> None:
    loaded = load(None, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.is_default("gateway.port")


def test_file_beats_default_environment_beats_file_command_line_beats_environment(file: Path) -> None:
    file.write_text("redis_shards = 4\n\n[gateway]\nport = 1\nworkers = 2\nmax_headers = 50\n")
    environ = {"TOLLGATE_GATEWAY_WORKERS": "3", "TOLLGATE_GATEWAY_MAX_HEADERS": "60", "HOME": "/x"}
    loaded = load(file, environ, {"gateway.max_headers": 70, "admin.port": None})
    gateway = loaded.settings.gateway
    assert (loaded.settings.redis_shards, gateway.port, gateway.workers, gateway.max_headers) == (4, 1, 3, 70)
    assert loaded.origins["redis_shards"] == f"{file}:1"
    assert loaded.origins["gateway.port"] == f"{file}:4"
    assert loaded.origins["gateway.workers"] == "TOLLGATE_GATEWAY_WORKERS"
    assert loaded.origins["gateway.max_headers"] == "command line"
    assert loaded.origins["admin.port"] == "default"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(None, {"TOLLGATE_POSTGRES_URL": ""}, {}).settings.postgres_url is None


def test_every_setting_has_a_variable_that_sets_it() -> None:
    environ = {variable(path): "/x" for path, field in fields().items() if field.default is None}
    environ |= {"TOLLGATE_POSTGRES_URL": "postgres://h/d", "TOLLGATE_SANDBOX_POSTGRES_URL": "postgres://h/s"}
    environ |= {"TOLLGATE_REDIS_URL": "redis://h"}
    environ |= {
        "TOLLGATE_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "TOLLGATE_GATEWAY_MAX_REQUESTS_PER_PROJECT": "10",
        "TOLLGATE_ADMIN_PUBLIC_URL": "https://tollgate.example",
    }
    environ |= {"TOLLGATE_ENCRYPTION_KEYS": new_key()}
    environ |= {"TOLLGATE_STRIPE_LIVE_KEY": "sk_live_1", "TOLLGATE_STRIPE_TEST_KEY": "rk_test_1"}
    settings = load(None, environ, {}).settings
    assert set(to_environment(settings)) == {variable(path) for path in fields()}
    assert load(None, to_environment(settings), {}).settings == settings
    assert list(map(str, settings.gateway.trusted_proxies)) == ["10.0.0.0/8", "::1/128"]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TOLLGATE_GATEWAY_PROT": "1"}, "TOLLGATE_GATEWAY_PROT is not a setting; did you mean TOLLGATE_GATEWAY_PORT?"),
        ({"TOLLGATE_GATEWAY_PORT": "http"}, "TOLLGATE_GATEWAY_PORT: gateway.port: input should be a valid integer"),
        ({"TOLLGATE_GATEWAY_PORT": "70000"}, "got '70000'"),
        ({"TOLLGATE_LOG_FORMAT": "xml"}, "TOLLGATE_LOG_FORMAT: log_format: input should be 'json' or 'console'"),
        ({"TOLLGATE_POSTGRES_URL": "mysql://a:hunter2@h/d"}, "postgres_url: expected postgresql://user:password@host"),
        ({"TOLLGATE_REDIS_URL": "redis://:hunter2@h:port"}, "redis_url: expected redis://"),
        ({"TOLLGATE_STRIPE_LIVE_KEY": "sk_test_hunter2"}, "live_key is not a Stripe key of mode live"),
    ],
)
def test_a_wrong_variable_is_named_with_what_would_be_right(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(None, environ, {})
    assert message in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gateway]\nhost = '::'\nprot = 1\n", ":3: gateway.prot is not a setting; did you mean gateway.port?"),
        ("[gatway]\nport = 1\n", ":1: gatway is not a setting; did you mean gateway?"),
        ("gateway = 1\n", ":1: [gateway] is a section, not a setting"),
        ("gateway.port = -1\n", ":1: gateway.port: input should be greater than or equal to 0, got -1"),
        ("[gateway]\nport = 8080\nport = 8081\n", "line 3"),
        ("port = \n", "line 1"),
        ("postgres_url = 5432\n", ":1: postgres_url: expected postgresql://"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError) as error:
        load(file, {}, {})
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))


def test_a_file_that_is_not_text_or_not_there_is_an_error(file: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        load(file, {}, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"tollgate\.toml"):
        load(file, {}, {})


def test_all_problems_are_reported_at_once(file: Path) -> None:
    file.write_text("nonsense = 1\n")
    with pytest.raises(SettingsError) as error:
        load(file, {"TOLLGATE_ADMIN_PORT": "x", "TOLLGATE_WORKER_BATCH": "1"}, {})
    assert len(str(error.value).split("; ")) >= 3


def test_what_is_displayed_holds_no_password() -> None:
    environ = {"TOLLGATE_POSTGRES_URL": "postgresql://tollgate:hunter2@db/tollgate", "TOLLGATE_REDIS_URL": "redis://r"}
    settings = load(None, environ, {}).settings
    assert displayed(settings.postgres_url) == "postgresql://tollgate:***@db/tollgate"
    assert displayed(settings.redis_url) == "redis://r"
    assert (displayed(None), displayed(True), displayed(8080)) == ("-", "true", "8080")
    assert "hunter2" not in repr(settings)


def test_the_example_file_holds_only_settings_and_their_defaults(file: Path) -> None:
    example = Path(__file__).parents[2] / "config" / "example.toml"
    text = re.sub(r"^# (?=\w+ = )", "", example.read_text(encoding="utf-8"), flags=re.MULTILINE)
    file.write_text(re.sub(r"^\w+_url = .*$", "", text, flags=re.MULTILINE))
    loaded = load(file, {}, {})
    assert loaded.settings == Settings()
    assert not loaded.is_default("gateway.workers")


def test_a_process_that_gets_secrets_masked_can_read_its_settings() -> None:
    """The gateway's workers: what they need not know is not in what they are sent."""
    settings = load(None, {"TOLLGATE_STRIPE_LIVE_KEY": "sk_live_1"}, {}).settings
    masked = settings.model_dump(mode="json")
    assert "sk_live_1" not in str(masked)
    assert type(settings).model_validate(masked).stripe.live_key is not None
