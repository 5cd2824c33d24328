"""Every setting, as an environment variable: its default, its forms, and what a bad value says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from settings import Settings, load_settings, parse_ollama_url

NOBODY = 65534
DEFAULTS = {
    "llm_service": "stubbed",
    "ollama_base_url": "http://localhost:11434",
    "ollama_model": "tinyllama",
    "connect_timeout": 5,
    "first_token_timeout": 600,
    "idle_timeout": 300,
    "stub_delay": 0.03,
    "log_dir": Path("logs").absolute(),
    "log_source": None,
    "log_fsync": False,
    "log_timeout": 5,
    "log_content": "full",
    "log_retention_days": 0,
    "log_key": None,
    "log_embeddings": False,
    "gateway": True,
    "count_tokens": True,
    "ollama_origins": frozenset(),
    "client_timeout": 300,
    "max_body_bytes": 20 * 1024 * 1024,
    "max_prompt_bytes": 2**20,
    "max_buffered_bytes": 2**28,
    "max_concurrency": 256,
    "api_key": None,
    "allowed_hosts": frozenset(),
}


def test_every_setting_has_its_default() -> None:
    assert Settings().model_dump() == DEFAULTS


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEFAULTS:
        monkeypatch.setenv(f"MINIVAULT_{name.upper()}", "")
    monkeypatch.setenv("OLLAMA_HOST", "")
    assert Settings().model_dump() == DEFAULTS


GOOD = [
    ("LLM_SERVICE", "ollama", "ollama"),
    ("OLLAMA_BASE_URL", "http://ollama:11434", "http://ollama:11434"),
    ("OLLAMA_MODEL", "llama3:8b", "llama3:8b"),
    ("CONNECT_TIMEOUT", "0.5", 0.5),
    ("FIRST_TOKEN_TIMEOUT", "1200", 1200),
    ("IDLE_TIMEOUT", "10", 10),
    ("IDLE_TIMEOUT", "0", 0),
    ("STUB_DELAY", "0", 0),
    ("LOG_DIR", "/somewhere/else", Path("/somewhere/else")),
    ("LOG_DIR", "~/vault", Path.home() / "vault"),
    ("LOG_FSYNC", "true", True),
    ("LOG_TIMEOUT", "0.5", 0.5),
    ("LOG_CONTENT", "metadata", "metadata"),
    ("LOG_RETENTION_DAYS", "30", 30),
    ("LOG_KEY", "key\n", SecretStr("key")),
    ("LOG_EMBEDDINGS", "true", True),
    ("GATEWAY", "false", False),
    ("COUNT_TOKENS", "false", False),
    ("OLLAMA_ORIGINS", "app://a, https://*.lan", frozenset({"app://a", "https://*.lan"})),
    ("CLIENT_TIMEOUT", "60", 60),
    ("API_KEY", " a-key\n", SecretStr("a-key")),
    ("MAX_BODY_BYTES", "1000", 1000),
    ("MAX_PROMPT_BYTES", "1000", 1000),
    ("MAX_BUFFERED_BYTES", "1000\r", 1000),
    ("MAX_CONCURRENCY", "1", 1),
    ("ALLOWED_HOSTS", "Vault.lan,other", frozenset({"vault.lan", "other"})),
    ("ALLOWED_HOSTS", "*", frozenset({"*"})),
]


@pytest.mark.parametrize(("name", "value", "meaning"), GOOD)
def test_variable_sets_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meaning: object
) -> None:
    monkeypatch.setenv(f"MINIVAULT_{name}", value)
    assert getattr(load_settings(), name.lower()) == meaning


BAD = [
    ("MINIVAULT_LLM_SERVICE", "openai", "'stubbed', 'ollama' or 'none'"),
    ("MINIVAULT_OLLAMA_BASE_URL", "ftp://x", "http or https URL"),
    ("MINIVAULT_OLLAMA_BASE_URL", "http://a..b", "http or https URL"),
    ("MINIVAULT_OLLAMA_BASE_URL", "http://a:-1", "http or https URL"),
    ("MINIVAULT_OLLAMA_BASE_URL", f"http://{'a' * 64}.example", "http or https URL"),
    ("MINIVAULT_CONNECT_TIMEOUT", "0", "greater than 0"),
    ("MINIVAULT_FIRST_TOKEN_TIMEOUT", "inf", "less than or equal"),
    ("MINIVAULT_LOG_TIMEOUT", "1e12", "less than or equal"),
    ("MINIVAULT_IDLE_TIMEOUT", "-1", "greater than or equal to 0"),
    ("MINIVAULT_IDLE_TIMEOUT", "soon", "valid number"),
    ("MINIVAULT_STUB_DELAY", "-1", "greater than or equal to 0"),
    ("MINIVAULT_LOG_DIR", __file__, "a directory"),
    ("MINIVAULT_LOG_DIR", f"{__file__}/logs", "Not a directory"),
    ("MINIVAULT_LOG_DIR", "x" * 300, "File name too long"),
    ("MINIVAULT_LOG_DIR", "~nobody-of-that-name/logs", "home directory"),
    ("MINIVAULT_LOG_FSYNC", "maybe", "true or false"),
    ("MINIVAULT_LOG_TIMEOUT", "0", "greater than 0"),
    ("MINIVAULT_LOG_CONTENT", "none", "'full' or 'metadata'"),
    ("MINIVAULT_LOG_RETENTION_DAYS", "-1", "greater than or equal to 0"),
    ("MINIVAULT_GATEWAY", "maybe", "true or false"),
    ("MINIVAULT_CLIENT_TIMEOUT", "0", "greater than 0"),
    ("MINIVAULT_MAX_BODY_BYTES", "1k", "valid integer"),
    ("MINIVAULT_MAX_BODY_BYTES", "9" * 30, "less than or equal"),
    ("MINIVAULT_MAX_CONCURRENCY", "0", "greater than 0"),
    ("MINIVAULT_ALLOWED_HOSTS", "http://vault.lan", "without a port"),
    ("MINIVAULT_ALLOWED_HOSTS", "*.lan", "host names"),
    ("OLLAMA_HOST", "a b", "host:port"),
    ("minivault_idle_timeout", "soon", "valid number"),
    ("Ollama_Host", "a b", "host:port"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_bad_value_is_one_line_with_variable_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        load_settings()
    line = str(stop.value)
    assert f"{name}={value!r}" in line and allowed in line and "\n" not in line


@pytest.mark.parametrize("name", ["MINIVAULT_API_KEY", "MINIVAULT_LOG_KEY"])
@pytest.mark.parametrize("key", ["clé", "two words", "\n"])
def test_key_that_no_header_can_carry_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    monkeypatch.setenv(name, key)
    with pytest.raises(SystemExit, match=rf"^[^\n]*{name}=\(hidden\): [^\n]*ASCII[^\n]*$") as stop:
        load_settings()
    assert repr(key) not in str(stop.value)


@contextmanager
def somebody_else_than_root() -> Iterator[None]:
    """Run the block without root's right to enter every folder."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_folder_under_one_that_may_not_be_entered_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    monkeypatch.setenv("MINIVAULT_LOG_DIR", str(tmp_path / "closed" / "logs"))
    with somebody_else_than_root(), pytest.raises(SystemExit, match="Permission denied") as stop:
        load_settings()
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("example.com", "http://example.com:11434"),
        ("example.com:8080", "http://example.com:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
        (' "10.0.0.1" ', "http://10.0.0.1:11434"),
        ("http://example.com", "http://example.com"),
        ("https://example.com", "https://example.com"),
        ("https://example.com:8080/ollama/", "https://example.com:8080/ollama"),
    ],
)
def test_ollama_host_in_all_of_ollamas_forms(
    monkeypatch: pytest.MonkeyPatch, host: str, url: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert Settings().ollama_base_url == url


@pytest.mark.parametrize("host", ["host:port", "host:70000", "a b", "unix:///x", "h?q"])
def test_what_is_no_form_of_ollama_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_ollama_url(host)


def test_base_url_goes_before_ollama_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "one")
    monkeypatch.setenv("MINIVAULT_OLLAMA_BASE_URL", "http://two:1")
    assert Settings().ollama_base_url == "http://two:1"


def test_origins_may_come_from_ollamas_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_ORIGINS", "app://a")
    assert Settings().ollama_origins == {"app://a"}


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "MINIVAULT_LOGDIR",
            "x",
            "MINIVAULT_LOGDIR is not a setting; did you mean MINIVAULT_LOG_DIR?",
        ),
        (
            "minivault_api_keys",
            "x",
            "minivault_api_keys is not a setting; did you mean MINIVAULT_API_KEY?",
        ),
        ("MINIVAULT_QQQQ", "x", "MINIVAULT_QQQQ is not a setting"),
        ("MINIVAULT_PORT", "9000", "MINIVAULT_PORT is not a setting; use `python app.py --port`"),
        (
            "MINIVAULT_WORKERS",
            "4",
            "MINIVAULT_WORKERS is not a setting; use `python app.py --workers`",
        ),
    ],
)
def test_unknown_name_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        load_settings()
    assert str(stop.value) == f"MiniVault cannot start: {line}"
    monkeypatch.setenv(name, "")
    load_settings()


# https://kubernetes.io/docs/tutorials/services/connect-applications-service/
SERVICE_VARIABLES = {
    "MINIVAULT_PORT": "tcp://10.0.0.7:8000",
    "MINIVAULT_PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "MINIVAULT_PORT_8000_TCP_ADDR": "10.0.0.7",
    "MINIVAULT_PORT_8000_TCP_PROTO": "tcp",
    "MINIVAULT_SERVICE_HOST": "10.0.0.7",
    "MINIVAULT_SERVICE_PORT": "8000",
    "MINIVAULT_SERVICE_PORT_HTTP": "8000",
    "MINIVAULT_METRICS_SERVICE_HOST": "10.0.0.8",
    "MINIVAULT_METRICS_PORT": "tcp://10.0.0.8:8000",
}


def test_what_kubernetes_sets_in_every_pod_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_VARIABLES.items():
        monkeypatch.setenv(name, value)
    load_settings()


def test_the_file_comes_after_the_environment_and_before_ollamas_own_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "MINIVAULT_OLLAMA_BASE_URL='http://two:1'\r\nMINIVAULT_OLLAMA_MODEL=file\r\n"
        "MINIVAULT_LOG_TIMEOUT=7\r\n"
    )
    monkeypatch.setattr("settings.ENV_FILE", file)
    monkeypatch.setenv("OLLAMA_HOST", "one")
    monkeypatch.setenv("MINIVAULT_OLLAMA_MODEL", "environment")
    monkeypatch.setenv("MINIVAULT_LOG_TIMEOUT", "")
    read = load_settings()
    assert (read.ollama_base_url, read.ollama_model, read.log_timeout) == (
        "http://two:1",
        "environment",
        7,
    )


def test_a_bad_value_of_ollamas_variable_in_the_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("OLLAMA_HOST=a b\n")
    monkeypatch.setattr("settings.ENV_FILE", file)
    with pytest.raises(SystemExit, match="OLLAMA_HOST='a b'"):
        load_settings()


def test_nothing_is_written_or_started_at_import(tmp_path: Path) -> None:
    code = "import app, threading; print(threading.active_count())"
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []
