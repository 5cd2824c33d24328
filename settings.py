"""Every setting of MiniVault: one class, read once from the environment at start.

A value that is not allowed stops the start with one line that names the variable, the value and
what is allowed; of a key no more than the name. An empty variable counts as unset, as Compose
passes it for `${NAME:-}`.
"""

import ipaddress
import os
import re
import stat
import sys
from pathlib import Path
from typing import Annotated, Literal

import httpx
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "MINIVAULT_"
OLLAMA_PORT = 11434
MAX_PORT = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}
THIS_MACHINE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
KEY = re.compile(r"[!-~]+")


def ollama_url(value: str) -> str:
    """Return the base URL that one of `OLLAMA_HOST`'s forms means.

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
        url.host.encode("idna")  # what no resolver takes raises here
        host = THIS_MACHINE.get(url.host, url.host)
        return str(url.copy_with(host=host, port=port)).rstrip("/")
    except (httpx.InvalidURL, KeyError, ValueError) as exc:
        raise ValueError("Input should be a host, host:port, or an http or https URL") from exc


def host_names(value: object) -> object:
    """Split a list of host names at its commas; raise ValueError where one is not a host name."""
    if not isinstance(value, str):
        return value
    names = frozenset(value.lower().replace(",", " ").split())
    if not all(HOST_NAME.fullmatch(name) for name in names - {"*"}):
        raise ValueError("Input should be host names without a port, separated by commas, or *")
    return names


def folder(path: Path) -> Path:
    """Return the path made absolute, `~` being the home folder.

    Raises:
        ValueError: something else has that name, or no folder can be there.
    """
    try:
        path = path.expanduser().absolute()
        if not stat.S_ISDIR(path.stat().st_mode):
            raise ValueError("Input should be a folder, and there is a file of that name")
    except FileNotFoundError:
        pass  # it is made when the log begins
    except OSError as exc:
        raise ValueError(f"Input should be a folder that can be used: {exc.strerror}") from exc
    except RuntimeError as exc:
        raise ValueError(f"Input should be a folder: {exc}") from exc
    return path


def bearer_key(key: SecretStr) -> SecretStr:
    """Return the key without white space around it, as a mounted secret's file ends in a newline.

    Raises:
        ValueError: no `Authorization` header can carry it.
    """
    value = key.get_secret_value().strip()
    if not KEY.fullmatch(value):
        raise ValueError("Input should be ASCII without spaces, or no header can carry it")
    return SecretStr(value)


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Key = Annotated[SecretStr, AfterValidator(bearer_key)]


class Settings(BaseSettings):
    """What can be set, each as the environment variable `MINIVAULT_<NAME>`; frozen once read."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    llm_service: Literal["stubbed", "ollama"] = Field("stubbed", description="what answers")
    ollama_base_url: Annotated[str, AfterValidator(ollama_url)] = Field(
        f"http://localhost:{OLLAMA_PORT}",
        validation_alias=AliasChoices(f"{PREFIX}OLLAMA_BASE_URL", "OLLAMA_HOST"),
        description="where Ollama listens",
    )
    ollama_model: str = Field("tinyllama", description="the model where a request names none")
    ollama_start: str = Field("ollama serve", description="the command that starts Ollama there")
    ollama_pull: str = Field("ollama pull", description="the command that gets a model there")
    connect_timeout: Seconds = Field(5, description="seconds to reach Ollama")
    first_token_timeout: Seconds = Field(
        300, description="seconds to the first token, model load included"
    )
    idle_timeout: Seconds = Field(60, description="seconds between two tokens")
    stub_delay: float = Field(
        0.03, ge=0, allow_inf_nan=False, description="seconds between two chunks of the stub"
    )
    log_dir: Annotated[Path, AfterValidator(folder)] = Field(
        Path("logs"), validate_default=True, description="where the daily files go"
    )
    log_fsync: bool = Field(
        False, description="true or false: force every batch of entries to the disk"
    )
    log_timeout: Seconds = Field(5, description="seconds that a write to the log may take")
    log_content: Literal["full", "metadata"] = Field(
        "full", description="metadata leaves texts out and keeps their lengths"
    )
    log_retention_days: int = Field(
        0, ge=0, le=36_500, description="days that a file is kept, 0 for ever"
    )
    log_key: Key | None = Field(None, description="the key that reading the log over HTTP wants")
    gateway: bool = Field(True, description="true or false: serve Ollama's own interfaces too")
    client_timeout: Annotated[float, Field(gt=0, le=86400)] = Field(
        300, description="seconds that a client may take nothing of its answer"
    )
    max_body_bytes: PositiveInt = Field(20_971_520, description="the largest request body")
    max_concurrency: PositiveInt = Field(256, description="generations in flight at a time")
    api_key: Key | None = Field(None, description="the key that requests must carry")
    allowed_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(host_names)] = Field(
        frozenset(), description="names beyond localhost that a Host header may carry"
    )


def variable_of(setting: str) -> str:
    """Return the environment variable that the setting was read from, in the letters it was set."""
    names = [PREFIX + setting.upper()]
    if setting == "ollama_base_url":
        names.append("OLLAMA_HOST")
    set_ones = {name.upper(): name for name, value in os.environ.items() if value}
    return next((set_ones[name] for name in names if name in set_ones), names[0])


def problem(error: ErrorDetails) -> str:
    """Return what is wrong with a setting, naming the variable, the value and what is allowed."""
    setting = str(error["loc"][0]).lower().removeprefix(PREFIX.lower())
    value = "(hidden)" if setting.endswith("_key") else repr(error["input"])
    reason = error["msg"].removeprefix("Value error, ")
    meaning = Settings.model_fields[setting].description
    return f"{variable_of(setting)}={value}: {reason} ({meaning})"


def load_settings() -> Settings:
    """Read the settings from the environment; exit with status 1 and one line where one is bad."""
    try:
        return Settings()
    except ValidationError as exc:
        problems = map(problem, exc.errors(include_url=False))
        sys.exit("MiniVault cannot start: " + "; ".join(problems))
