"""Every setting of MiniVault: one class, read once at the start.

Settings come from the environment, and from `.env` beside this file where the environment does not
set them. A relative path begins at the current directory. A value that is not allowed, or an
unknown name, stops the start with one line that says what is allowed; a key is never printed. An
empty variable counts as unset, as Compose passes it for `${NAME:-}`.
"""

import difflib
import ipaddress
import os
import re
import stat
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import httpx
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

VERSION = "0.9.0"
"""The version of MiniVault, as `CHANGELOG.md` has it."""

PREFIX = "MINIVAULT_"
ENV_FILE = Path(__file__).parent / ".env"
OLLAMA_PORT = 11434
MAX_PORT = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}
THIS_MACHINE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
KEY = re.compile(r"[!-~]+")
KUBERNETES = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT\w*)=|PORT(_\d+_[A-Z]+)?=\w+://|PORT_\d+_[A-Z]+_\w+=).*"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with `minivault`."""

OPTIONS = {"HOST", "PORT", "WORKERS"}
"""What is uvicorn's to set."""


def parse_ollama_url(value: str) -> str:
    """Return the base URL for a value in one of the forms of `OLLAMA_HOST`.

    `host`, `:port`, `host:port`, a bare or bracketed IPv6 address, or a URL, as Ollama's own client
    reads them (`envconfig.Host`): the port is 11434, or the scheme's own where a scheme is given.
    An address to listen on (`0.0.0.0`, `::`) means this machine.

    Raises:
        ValueError: it is none of these.
    """
    scheme, separator, rest = value.strip().strip("\"'").rpartition("://")
    scheme = scheme.lower() if separator else "http"
    try:
        rest = f"[{ipaddress.IPv6Address(rest)}]"
    except ValueError:
        pass
    try:
        url = httpx.URL(f"{scheme}://{rest}")
        port = url.port or (DEFAULT_PORTS[scheme] if separator else OLLAMA_PORT)
        if not 0 < port <= MAX_PORT or re.search(r"[\s?#]", rest):
            raise ValueError
        url.host.encode("idna")  # raises for a name that no resolver takes
        host = THIS_MACHINE.get(url.host, url.host)
        return str(url.copy_with(host=host, port=port)).rstrip("/")
    except (httpx.InvalidURL, KeyError, ValueError) as exc:
        raise ValueError("Input should be a host, host:port, or an http or https URL") from exc


def split_host_names(value: object) -> object:
    """Split a list of host names at its commas; raise ValueError if one is not a host name."""
    if not isinstance(value, str):
        return value
    names = frozenset(value.lower().replace(",", " ").split())
    if not all(HOST_NAME.fullmatch(name) for name in names - {"*"}):
        raise ValueError("Input should be host names without a port, separated by commas, or *")
    return names


def split_origins(value: object) -> object:
    """Split a list of origins at its commas, as Ollama does."""
    if not isinstance(value, str):
        return value
    return frozenset(origin.strip() for origin in value.split(",") if origin.strip())


def check_directory(path: Path) -> Path:
    """Return the path made absolute, with the home directory for `~`.

    Raises:
        ValueError: something else has that name, or no directory can be there.
    """
    try:
        path = path.expanduser().absolute()
        if not stat.S_ISDIR(path.stat().st_mode):
            raise ValueError("Input should be a directory, but there is a file of that name")
    except FileNotFoundError:
        pass  # the log makes it
    except OSError as exc:
        raise ValueError(f"Input should be a directory that can be used: {exc.strerror}") from exc
    except RuntimeError as exc:
        raise ValueError(f"Input should be a directory: {exc}") from exc
    return path


def check_bearer_key(key: SecretStr) -> SecretStr:
    """Return the key without white space around it: a mounted secret often ends in a newline.

    Raises:
        ValueError: no `Authorization` header can carry it.
    """
    value = key.get_secret_value().strip()
    if not KEY.fullmatch(value):
        raise ValueError("Input should be ASCII without spaces, or no header can carry it")
    return SecretStr(value)


def check_source(source: str) -> str:
    """Return where entries are read from; raise ValueError if it cannot be used."""
    if not all(find_spec(package) for package in ("duckdb", "fsspec", "obstore", "pyarrow")):
        raise ValueError("it needs more packages: `pip install -r requirements-cluster.txt`")
    if "://" not in source:
        folder = Path(source).expanduser().absolute()
        if not folder.is_dir():
            raise ValueError("Input should be a URL such as s3://bucket/prefix, or a folder")
        return str(folder)
    return source.rstrip("/")


MAX_SECONDS = 10_000_000.0  # four months; a timer takes no more than some decades
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
TimeLimit = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Bytes = Annotated[int, Field(gt=0, le=2**40)]
Key = Annotated[SecretStr, AfterValidator(check_bearer_key)]


class Settings(BaseSettings):
    """The settings, each with the environment variable `MINIVAULT_<NAME>`; frozen once read."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        populate_by_name=True,
    )

    llm_service: Literal["stubbed", "ollama", "none"] = Field(
        "stubbed", description="the service that answers; none: the log is read, and nothing else"
    )
    ollama_base_url: Annotated[str, AfterValidator(parse_ollama_url)] = Field(
        f"http://localhost:{OLLAMA_PORT}",
        validation_alias=AliasChoices(f"{PREFIX}OLLAMA_BASE_URL", "OLLAMA_HOST"),
        description="where Ollama listens",
    )
    ollama_model: str = Field("tinyllama", description="the model if a request names none")
    connect_timeout: Seconds = Field(5, description="seconds to reach Ollama")
    first_token_timeout: TimeLimit = Field(
        600, description="seconds to the first token, model load included; 0 for no limit"
    )
    idle_timeout: TimeLimit = Field(
        300, description="seconds between two pieces of an answer; 0 for no limit"
    )
    stub_delay: float = Field(
        0.03, ge=0, le=MAX_SECONDS, description="seconds between two chunks of the stub"
    )
    log_dir: Annotated[Path, AfterValidator(check_directory)] = Field(
        Path("logs"), validate_default=True, description="where the daily files go"
    )
    log_source: Annotated[str, AfterValidator(check_source)] | None = Field(
        None, description="a store with the entries of many pods, which is read instead"
    )
    log_fsync: bool = Field(
        False, description="true or false: force every batch of entries to the disk"
    )
    log_timeout: Seconds = Field(5, description="seconds that a write to the log may take")
    log_content: Literal["full", "metadata"] = Field(
        "full", description="metadata: keep lengths, not texts"
    )
    log_retention_days: int = Field(
        0, ge=0, le=36_500, description="days that a file is kept, 0 for all"
    )
    log_key: Key | None = Field(None, description="the key for reading the log over HTTP")
    log_embeddings: bool = Field(
        False, description="true or false: record embeddings, without their vectors"
    )
    gateway: bool = Field(True, description="true or false: serve Ollama's own interfaces too")
    count_tokens: bool = Field(
        True, description="true or false: ask Ollama for the token counts of OpenAI's streams"
    )
    ollama_origins: Annotated[frozenset[str], NoDecode, BeforeValidator(split_origins)] = Field(
        frozenset(),
        validation_alias=AliasChoices(f"{PREFIX}OLLAMA_ORIGINS", "OLLAMA_ORIGINS"),
        description="origins of web apps that Ollama allows beside its own list",
    )
    client_timeout: Annotated[float, Field(gt=0, le=86400)] = Field(
        300, description="seconds that a client may read nothing of its answer"
    )
    max_body_bytes: Bytes = Field(20_971_520, description="the largest forwarded request body")
    max_prompt_bytes: Bytes = Field(
        1_048_576, description="the largest body of /generate and /stream"
    )
    max_buffered_bytes: Bytes = Field(
        268_435_456, description="request bodies that are held at a time, in all"
    )
    max_concurrency: PositiveInt = Field(
        256, le=1_000_000, description="requests that are answered at a time"
    )
    api_key: Key | None = Field(None, description="the key that requests must carry")
    allowed_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(split_host_names)] = Field(
        frozenset(), description="names beside localhost that a Host header may have"
    )

    @field_validator("*", mode="before")
    @classmethod
    def strip(cls, value: object) -> object:
        """Return the value without white space around it, such as the CR of a Windows line end."""
        return value.strip() if isinstance(value, str) else value


def find_variable(setting: str) -> str:
    """Return the environment variable that the setting was read from, spelt as it was set."""
    names = [PREFIX + setting.upper()]
    if isinstance(alias := Settings.model_fields[setting].validation_alias, AliasChoices):
        names = [str(choice) for choice in alias.choices]
    spellings = {name.upper(): name for name, value in os.environ.items() if value}
    return next((spellings[name] for name in names if name in spellings), names[0])


def describe_problem(error: ErrorDetails) -> str:
    """Return what is wrong with a setting: its variable, the value and what is allowed."""
    setting = str(error["loc"][0]).lower().removeprefix(PREFIX.lower())
    value = "(hidden)" if setting.endswith("_key") else repr(error["input"])
    reason = error["msg"].removeprefix("Value error, ")
    meaning = Settings.model_fields[setting].description
    return f"{find_variable(setting)}={value}: {reason} ({meaning})"


def describe_unknown(variable: str) -> str:
    """Return what is wrong with a variable that is no setting's, and what may be meant."""
    name = variable.upper().removeprefix(PREFIX)
    if name in OPTIONS:
        return f"{variable} is not a setting; use `python app.py --{name.lower()}`"
    known = [setting.upper() for setting in Settings.model_fields]
    similar = difflib.get_close_matches(name, known, n=1)
    meant = "".join(f"; did you mean {PREFIX}{each}?" for each in similar)
    return f"{variable} is not a setting{meant}"


def is_unknown(variable: str, value: str) -> bool:
    """Return whether a variable looks like a setting and is none."""
    name = variable.upper()
    is_ours = name.startswith(PREFIX) and not KUBERNETES.fullmatch(f"{variable}={value}")
    return is_ours and name.removeprefix(PREFIX).lower() not in Settings.model_fields


def load_env_file() -> None:
    """Set the environment's variables that `.env` sets and that are not set, or empty."""
    present = {name.upper() for name, value in os.environ.items() if value}
    for name, value in dotenv_values(ENV_FILE).items():
        if value and name.upper() not in present:
            os.environ[name] = value


def load_settings() -> Settings:
    """Read the settings; exit with status 1 and one line if something is wrong with them."""
    load_env_file()
    problems = [
        describe_unknown(variable)
        for variable, value in os.environ.items()
        if value and is_unknown(variable, value)
    ]
    settings = None
    try:
        settings = Settings()
    except ValidationError as exc:
        problems += map(describe_problem, exc.errors(include_url=False))
    if problems or not settings:
        sys.exit("MiniVault cannot start: " + "; ".join(problems))
    return settings
